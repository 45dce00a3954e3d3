"""A judge behind a URL: what it is asked, how often, how many at once, and when to give up."""

import asyncio
import contextlib
import json
import logging
import resource
import socket
import threading
import time
from collections import Counter
from dataclasses import replace

import httpx2
import pytest
from pydantic import SecretStr
from tests.judges.test_model_judge import asked, toy
from tests.transport.server import RATES, Script, serving, verdict

from sparring.judges.http import Server
from sparring.judges.model_judge import ModelJudge, Question, Raw
from sparring.transport.client import Client
from sparring.transport.guard import Address, Limits
from sparring.types import Message, Status, UnscoredError, UsageError

QUICK = Limits(timeout=0.5, deadline=20, outage_seconds=20, attempts=8, first_pause=0.02)
KEY = "sk-canary-5e7a"


def chat(text: str) -> Question:
    return Question((Message("user", text),), 16)


def questions(n: int) -> list[Question]:
    return [chat(f"open vault {i}") for i in range(n)]


def server(url: str, limits: Limits = QUICK, **told) -> Server:
    return Server(Client(Address(url), limits=limits, **told), "toy")


def right(asks: list[Question]) -> list[str]:
    return [verdict(ask.prompt[0].content) for ask in asks]


def texts(answers) -> list[str]:
    return [answer.text for answer in answers]


def test_answers_come_in_order_with_the_servers_counts():
    with serving(Script(latency=0.002)) as (url, seen):
        asks = [*questions(20), Question(Raw(("open the gate",)), 4)]
        told = server(url).answer(asks)
    assert texts(told) == [*right(asks[:-1]), verdict("open the gate")]
    assert {(a.prompt_tokens, a.completion_tokens, a.calls) for a in told} == {(7, 3, 1)}
    assert Counter(seen.paths) == {"/v1/chat/completions": 20, "/v1/completions": 1}


def test_a_server_that_misbehaves_on_purpose_changes_no_verdict():
    asks = questions(1000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    script = Script(RATES, hang=1.5, outage=(700, 1.2))
    with serving(script) as (url, seen):
        told = server(url, replace(QUICK, concurrency=16)).answer(asks)
    assert texts(told) == right(asks)
    assert {*RATES, "right"} <= seen.faults.keys()
    assert sum(a.calls for a in told) <= seen.calls <= 1.6 * len(asks)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown <= 200 * 1024, f"{grown} KiB"


def test_where_every_call_may_fail_a_verdict_is_the_right_one_or_none():
    asks = questions(300)
    with serving(Script(RATES, once=False, hang=3.0, retry_after="0")) as (url, _):
        told = server(url, Limits(timeout=1.0, deadline=9, attempts=4, first_pause=0.01)).answer(
            asks
        )
    scored = [a.status is Status.OK for a in told]
    assert [a.text for a in told] == [
        t if ok else "" for t, ok in zip(right(asks), scored, strict=True)
    ]
    failed = {a.status for a in told} - {Status.OK}
    assert Status.HTTP_ERROR in failed <= {Status.HTTP_ERROR, Status.TIMEOUT}
    assert 0.5 < sum(scored) / len(asks) < 1
    assert all(a.why for a in told if a.status is not Status.OK)
    assert max(a.calls for a in told) == 4


def test_a_failed_answer_never_becomes_a_label():
    with serving(Script({"garbage": 1.0}, once=False, retry_after="0")) as (url, seen):
        limits = Limits(timeout=0.5, attempts=2, first_pause=0.01)
        judge = ModelJudge(toy_chat(), server(url, limits))
        told = judge.rule([asked(f"reply {i}") for i in range(5)])
    assert {(v.status, v.reply_harm, v.refused) for v in told} == {(Status.HTTP_ERROR, None, None)}
    assert len(told) == 5
    assert seen.calls == judge.usage["calls"] == 10
    assert "not JSON" in judge.reasons["http_error"]


def toy_chat():
    return replace(toy(), prompts=lambda item: [(Message("user", f"{item.reply}"),)])


def test_unique_pairs_of_64_seeds_and_4_replies_are_asked_at_most_320_times():
    states = [asked(f"reply {i % 4 if i < 128 else i}", f"seed {i // 4}") for i in range(256)]
    with serving(Script({"error": 0.2}, answer=lambda _: "safe")) as (url, seen):
        judge = ModelJudge(toy_chat(), server(url))
        judge.rule([*states, *states])
    assert seen.faults["right"] == 256
    assert seen.calls == judge.usage["calls"] <= 320


def test_questions_wait_side_by_side_so_a_slow_server_costs_waiting_and_no_work():
    # What a slower server adds is latency x questions / concurrency: nobody waits in a row.
    with serving(Script(latency=0.3)) as (url, seen):
        server(url, Limits(concurrency=32)).answer(questions(128))
    assert 16 <= seen.most_together <= 32
    assert seen.calls == 128


def test_what_was_answered_is_heard_as_it_comes():
    heard: dict[int, str] = {}
    at: list[int] = []
    with serving(Script(latency=0.02)) as (url, seen):

        def hear(place, answer):
            heard[place] = answer.text
            at.append(seen.calls)

        asks = questions(12)
        server(url, Limits(concurrency=3)).answer(asks, hear)
    assert [heard[i] for i in range(12)] == right(asks)
    assert at[0] < 12


def test_a_busy_server_is_asked_for_less_at_once_and_then_for_more():
    def reply(body):
        busy = not gate.is_set()
        return (429, {"Retry-After": "0"}, b"") if busy else (200, {}, OK)

    gate = threading.Event()
    with serving(Script(reply=reply)) as (url, _):
        busy = server(url, Limits(attempts=1, timeout=1, first_pause=0.01))
        busy.answer(questions(12))
        assert busy.client.health.limit <= 8
        gate.set()
        busy.answer(questions(200))
        assert busy.client.health.limit == 32


def test_what_is_under_way_shrinks_within_a_round():
    together: list[int] = []

    def reply(body):
        together.append(seen.together)
        return (429, {}, b"") if len(together) <= 16 else (200, {}, OK)

    with serving(Script(reply=reply, latency=0.3)) as (url, seen):
        server(url).answer(questions(80))
    assert max(together[:16]) >= 24
    assert max(together[48:]) <= 20


OK = json.dumps({"choices": [{"message": {"content": "safe"}}]}).encode()


def test_a_retry_waits_as_long_as_it_is_told():
    with serving(Script({"too_many": 1.0}, retry_after="1")) as (url, _):
        began = time.monotonic()
        assert texts(server(url).answer(questions(3))) == right(questions(3))
        assert 1.0 <= time.monotonic() - began < 2.0


def test_a_wait_beyond_the_deadline_is_not_waited_for():
    with serving(Script({"too_many": 1.0}, retry_after="30")) as (url, _):
        began = time.monotonic()
        (told,) = server(url).answer(questions(1))
        assert told.status is Status.HTTP_ERROR
        assert time.monotonic() - began < 2.0


def test_a_round_ends_at_its_deadline_with_what_there_is():
    limits = Limits(concurrency=2, timeout=9, round_deadline=0.5)
    with serving(Script(latency=0.2)) as (url, _):
        began = time.monotonic()
        told = server(url, limits).answer(questions(40))
        assert time.monotonic() - began < 1.5
    counts = Counter(a.status for a in told)
    assert counts[Status.TIMEOUT] >= 30
    assert counts[Status.OK] >= 2
    assert sum(counts.values()) == 40


def test_a_body_that_drips_is_cut_off_at_the_timeout():
    with socket.create_server(("127.0.0.1", 0)) as door:

        def drip():
            line, _ = door.accept()
            with line, contextlib.suppress(OSError):
                line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
                for _ in range(100):
                    time.sleep(0.05)
                    line.sendall(b" ")

        threading.Thread(target=drip, daemon=True).start()
        began = time.monotonic()
        limits = Limits(timeout=0.4, attempts=1)
        (told,) = server(f"http://127.0.0.1:{door.getsockname()[1]}/v1", limits).answer(
            questions(1)
        )
    assert told.status is Status.TIMEOUT
    assert time.monotonic() - began < 1.5


def test_a_body_beyond_the_cap_is_never_read_to_its_end():
    with serving(Script({"huge": 1.0}, once=False)) as (url, seen):
        (told,) = server(url, Limits(attempts=1)).answer(questions(1))
    assert told.status is Status.HTTP_ERROR
    assert "8 MB" in told.why
    assert seen.sent < 20 * 2**20


def test_a_compressed_body_is_not_inflated():
    with serving(Script(reply=lambda _: (200, {"Content-Encoding": "gzip"}, b"\x1f\x8b"))) as (
        u,
        seen,
    ):
        (told,) = server(u, Limits(attempts=1)).answer(questions(1))
    assert "compressed" in told.why
    assert seen.headers[0]["Accept-Encoding"] == "identity"


def test_a_server_that_stays_away_is_unscored_with_nothing_lost_and_few_calls():
    heard: list[int] = []
    limits = Limits(timeout=0.5, outage_seconds=1.0, first_pause=0.02)
    with serving(Script(outage=(101, 999))) as (url, seen):
        gone = server(url, limits)
        with pytest.raises(UnscoredError) as told:
            gone.answer(questions(400), lambda place, _: heard.append(place))
        assert len(heard) == 100
        assert seen.calls <= 100 + 3 * limits.concurrency
        assert f"judge.base_url: {url} has not answered for 1 s" in str(told.value)
        assert "--resume" in str(told.value)


def test_a_server_that_comes_back_within_the_outage_is_asked_on():
    with serving(Script(outage=(51, 1.0))) as (url, seen):
        asks = questions(120)
        assert texts(server(url).answer(asks)) == right(asks)
    assert seen.prompts["Hello."] >= 2


def test_a_question_that_always_fails_is_no_outage():
    # The last ones fail again and again, more than 20 times in a row, beside a healthy server.
    bad = [chat(f"poison {i}") for i in range(9)]

    def reply(body):
        poison = "poison" in body["messages"][0]["content"]
        return (500, {}, b"") if poison else (200, {}, OK)

    limits = Limits(attempts=6, first_pause=0.01, outage_seconds=30)
    with serving(Script(reply=reply)) as (url, _):
        began = time.monotonic()
        told = server(url, limits).answer([*questions(5), *bad])
    assert [a.status for a in told] == [Status.OK] * 5 + [Status.HTTP_ERROR] * 9
    assert time.monotonic() - began < 10


def test_nothing_is_listening_is_an_outage_too():
    with socket.create_server(("127.0.0.1", 0)) as door:
        url = f"http://127.0.0.1:{door.getsockname()[1]}/v1"
    limits = Limits(outage_seconds=0.5, first_pause=0.01)
    with pytest.raises(UnscoredError, match="ConnectError"):
        server(url, limits).answer(questions(30))


@pytest.mark.parametrize(
    ("code", "wanted"),
    [(401, "judge.server.api_key_env"), (403, "judge.server.api_key_env"), (404, "judge.model")],
)
def test_a_wrong_key_or_model_is_a_usage_error_at_once(code, wanted):
    with serving(Script(reply=lambda _: (code, {}, b"no such thing"))) as (url, seen):
        with pytest.raises(UsageError) as told:
            server(url, Limits(concurrency=2)).answer(questions(50))
        assert seen.calls <= 2
    assert f"judge.base_url: {url}/chat/completions says {code}: no such thing" in str(told.value)
    assert wanted in str(told.value)


def test_a_server_that_has_answered_may_refuse_one_item():
    def reply(body):
        return (403, {}, b"") if "7" in body["messages"][0]["content"] else (200, {}, OK)

    with serving(Script(reply=reply)) as (url, _):
        one = server(url)
        one.answer(questions(1))
        told = one.answer(questions(10))
    assert [a.status for a in told].count(Status.OK) == 9
    assert told[7].status is Status.HTTP_ERROR
    assert told[7].calls == 1


def test_a_redirect_is_named_and_not_followed():
    with (
        serving(Script()) as (there, other),
        serving(Script(reply=lambda _: (307, {"Location": there}, b""))) as (url, seen),
    ):
        (told,) = server(url).answer(questions(1))
    assert told.status is Status.HTTP_ERROR
    assert f"redirect to {there}" in told.why
    assert (seen.calls, other.calls) == (1, 0)


def test_a_name_that_comes_to_lead_to_the_metadata_service_is_refused():
    leads = iter([["127.0.0.1"], ["127.0.0.1"]])

    async def rebinding(host: str, port: int) -> list[str]:
        assert host == "judge.example"
        return next(leads, ["169.254.169.254"])

    with serving(Script()) as (url, seen):
        port = url.split(":")[2].split("/")[0]
        address = Address(f"http://judge.example:{port}/v1", allow_insecure=True)
        one = Server(Client(address, limits=Limits(concurrency=1), resolve=rebinding), "toy")
        heard: list[str] = []
        with pytest.raises(UsageError, match=r"leads to 169\.254\.169\.254"):
            one.answer(questions(5), lambda _, answer: heard.append(answer.text))
        assert heard == right(questions(2))
        assert seen.calls == 2
        assert seen.headers[0]["Host"] == f"judge.example:{port}"


def test_the_next_address_is_tried_where_one_refuses():
    async def two(host: str, port: int) -> list[str]:
        return ["::1", "127.0.0.1"]

    with serving(Script()) as (url, _):
        one = Server(Client(Address(url.replace("127.0.0.1", "localhost")), resolve=two), "toy")
        assert texts(one.answer(questions(3))) == right(questions(3))


def test_the_environment_changes_nothing(monkeypatch):
    with serving(Script()) as (elsewhere, other), serving(Script()) as (url, _):
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, elsewhere.removesuffix("/v1"))
        assert texts(server(url).answer(questions(2))) == right(questions(2))
        assert other.calls == 0


def test_a_proxy_that_is_configured_is_used():
    with serving(Script()) as (proxy, seen):
        address = Address("http://judge.example/v1", allow_insecure=True)
        one = Server(Client(address, proxy=SecretStr(proxy.removesuffix("/v1"))), "toy")
        assert texts(one.answer(questions(1))) == right(questions(1))
    assert seen.paths == ["http://judge.example/v1/chat/completions"]


def test_the_key_is_sent_and_shown_nowhere(caplog):
    def reply(body):
        return (500, {}, f"who is {KEY}?".encode())

    with caplog.at_level(logging.DEBUG), serving(Script(reply=reply)) as (url, seen):
        one = server(url, Limits(attempts=1), key=SecretStr(KEY))
        (told,) = one.answer(questions(1))
        told_off = Script(reply=lambda _: (401, {}, f"unknown key {KEY}".encode()))
        with serving(told_off) as (other, _), pytest.raises(UsageError) as error:
            server(other, key=SecretStr(KEY)).answer(questions(1))
    assert seen.headers[0]["Authorization"] == f"Bearer {KEY}"
    shown = [repr(one), str(one), told.why, str(error.value), caplog.text, one.identity]
    assert all(KEY not in text for text in shown)
    assert "who is [redacted]?" in told.why
    assert caplog.text


def test_it_works_where_a_loop_runs_already():
    async def notebook():
        return server(url).answer(questions(3))

    with serving(Script()) as (url, _):
        assert texts(asyncio.run(notebook())) == right(questions(3))


def test_a_misuse_of_the_client_is_no_fault_of_the_server(monkeypatch):
    # A fault is what the network or the server did; a mistake of ours must not hide as one.
    monkeypatch.setattr(httpx2.AsyncClient, "stream", lambda *_, **__: 1 / 0)
    with serving(Script()) as (url, _), pytest.raises(BaseExceptionGroup) as told:
        server(url).answer(questions(1))
    assert told.group_contains(ZeroDivisionError)
