"""A client's requests to a judge: how often, how many at once, and when it gives up."""

import asyncio
import json
import logging
import resource
import socket
import time
from collections import Counter
from dataclasses import replace

import httpx2
import pytest
from pydantic import SecretStr
from tests.transport.server import RATES, Script, serving, verdict

from sparring.judges.http import Server
from sparring.judges.model_judge import Question, Raw
from sparring.transport.client import Client
from sparring.transport.guard import Address, Limits
from sparring.types import Message, Status, UnscoredError, UsageError

# Time limits leave room for a busy machine: a server that answers at all does so well within them.
PATIENT = Limits(timeout=20, deadline=60, outage_seconds=60, attempts=8, first_pause=0.02)
KEY = "sk-canary-5e7a"
OK = json.dumps({"choices": [{"message": {"content": "safe"}}]}).encode()


def questions(n: int, name: str = "open vault") -> list[Question]:
    return [Question((Message("user", f"{name} {i}"),), 16) for i in range(n)]


def server(url: str, **limits) -> Server:
    return Server(Client(Address(url), limits=replace(PATIENT, **limits)), "toy")


def right(asks: list[Question]) -> list[str]:
    return [verdict(ask.prompt[0].content) for ask in asks]


def texts(answers) -> list[str]:
    return [answer.text for answer in answers]


def one_answer(url: str, **limits):
    (answer,) = server(url, **limits).answer(questions(1))
    return answer


def test_a_server_that_misbehaves_on_purpose_changes_no_verdict():
    asks = questions(350)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with serving(Script(RATES, hang=9, outage=(245, 1.0))) as (url, received):
        answers = server(url, concurrency=16, timeout=2).answer(asks)
    assert texts(answers) == right(asks)
    assert {*RATES, "right"} <= received.faults.keys()
    assert sum(a.calls for a in answers) <= received.calls <= 1.6 * len(asks)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown <= 200 * 1024, f"{grown} KiB"


def test_where_every_call_may_fail_a_verdict_is_the_right_one_or_none():
    asks = questions(200)
    with serving(Script(RATES, once=False, hang=9, retry_after="0")) as (url, _):
        answers = server(url, timeout=2, attempts=4, first_pause=0.01).answer(asks)
    scored = [a.status is Status.OK for a in answers]
    assert texts(answers) == [t if ok else "" for t, ok in zip(right(asks), scored, strict=True)]
    failed = {a.status for a in answers} - {Status.OK}
    assert Status.HTTP_ERROR in failed <= {Status.HTTP_ERROR, Status.TIMEOUT}
    assert 0.5 < sum(scored) / len(asks) < 1
    assert all(a.why for a in answers if a.status is not Status.OK)
    assert max(a.calls for a in answers) == 4


def test_answers_come_in_order_with_the_servers_counts_and_each_is_passed_on_as_it_comes():
    # What a slower server adds is latency x questions / concurrency: nobody waits in a row.
    passed_on, calls = {}, []
    with serving(Script(latency=0.3)) as (url, received):

        def on_answer(place, answer):
            passed_on[place] = answer
            calls.append(received.calls)

        asks = [*questions(127), Question(Raw(("open the gate",)), 4)]
        answers = server(url, concurrency=32).answer(asks, on_answer)
    assert texts(answers) == [*right(asks[:-1]), verdict("open the gate")]
    assert {(a.prompt_tokens, a.completion_tokens, a.calls) for a in answers} == {(7, 3, 1)}
    assert [passed_on[place] for place in range(128)] == answers
    assert Counter(received.paths) == {"/v1/chat/completions": 127, "/v1/completions": 1}
    assert 16 <= received.most_together <= 32
    assert calls[0] < received.calls == 128


def test_what_is_under_way_shrinks_within_a_round_of_a_busy_server():
    together: list[int] = []

    def reply(body):
        together.append(received.together)
        return (429, {}, b"") if len(together) <= 16 else (200, {}, OK)

    with serving(Script(reply=reply, latency=0.3)) as (url, received):
        server(url).answer(questions(80))
    assert max(together[:16]) >= 24
    assert max(together[48:]) <= 20


@pytest.mark.parametrize(
    ("wait", "status", "least", "most"),
    [("1", Status.OK, 1.0, 10), ("30", Status.HTTP_ERROR, 0, 10)],
)
def test_a_retry_waits_as_long_as_the_server_asks_unless_the_deadline_comes_first(
    wait, status, least, most
):
    with serving(Script({"too_many": 1.0}, retry_after=wait)) as (url, _):
        began = time.monotonic()
        assert one_answer(url, deadline=20).status is status
        assert least <= time.monotonic() - began < most


def test_a_round_ends_at_its_deadline_with_what_there_is():
    with serving(Script(latency=0.5)) as (url, _):
        began = time.monotonic()
        answers = server(url, concurrency=2, round_deadline=3).answer(questions(200))
        assert time.monotonic() - began < 25, "all of them take 50 s"
    counts = Counter(a.status for a in answers)
    assert counts[Status.TIMEOUT] >= 100
    assert counts[Status.OK] >= 2
    assert counts.total() == 200


def test_a_body_that_drips_is_cut_off_at_the_timeout():
    with serving(Script({"drip": 1.0}, once=False)) as (url, _):
        began = time.monotonic()
        assert one_answer(url, timeout=0.4, attempts=1).status is Status.TIMEOUT
        assert time.monotonic() - began < 10, "the whole body takes 20 s"


def test_a_body_beyond_the_cap_is_never_read_to_its_end():
    with serving(Script({"huge": 1.0}, once=False)) as (url, received):
        answer = one_answer(url, attempts=1)
    assert answer.status is Status.HTTP_ERROR
    assert "8 MB" in answer.why
    assert received.sent < 20 * 2**20


def test_a_compressed_body_is_not_inflated():
    script = Script(reply=lambda _: (200, {"Content-Encoding": "gzip"}, b"\x1f\x8b"))
    with serving(script) as (url, received):
        assert "compressed" in one_answer(url, attempts=1).why
    assert received.headers[0]["Accept-Encoding"] == "identity"


def test_a_server_that_stays_away_is_unscored_with_nothing_lost_and_few_calls():
    places: list[int] = []
    with serving(Script(outage=(101, 999))) as (url, received):
        with pytest.raises(UnscoredError) as error:
            server(url, outage_seconds=1.0, concurrency=32).answer(
                questions(400), lambda place, _: places.append(place)
            )
        assert len(places) == 100
        assert received.calls <= 100 + 3 * 32
    assert f"judge.base_url: {url} has not answered for 1 s" in str(error.value)
    assert "--resume" in str(error.value)


def test_a_server_that_comes_back_within_the_outage_is_asked_on():
    with serving(Script(outage=(51, 1.0))) as (url, received):
        asks = questions(120)
        assert texts(server(url).answer(asks)) == right(asks)
    assert received.prompts["Hello."] >= 2


def test_a_question_that_always_fails_is_no_outage():
    # The last ones fail again and again, more than 20 times in a row, beside a healthy server.
    def reply(body):
        poison = "poison" in body["messages"][0]["content"]
        return (500, {}, b"") if poison else (200, {}, OK)

    with serving(Script(reply=reply)) as (url, _):
        asks = [*questions(5), *questions(9, "poison")]
        answers = server(url, attempts=6, first_pause=0.01).answer(asks)
    assert [a.status for a in answers] == [Status.OK] * 5 + [Status.HTTP_ERROR] * 9


def test_nothing_is_listening_is_an_outage_too():
    with socket.create_server(("127.0.0.1", 0)) as door:
        url = f"http://127.0.0.1:{door.getsockname()[1]}/v1"
    with pytest.raises(UnscoredError, match="ConnectError"):
        server(url, outage_seconds=0.5).answer(questions(30))


@pytest.mark.parametrize(
    ("code", "setting"),
    [(401, "judge.server.api_key_env"), (403, "judge.server.api_key_env"), (404, "judge.model")],
)
def test_a_wrong_key_or_model_is_a_usage_error_at_once(code, setting):
    with serving(Script(reply=lambda _: (code, {}, b"no such thing"))) as (url, received):
        with pytest.raises(UsageError, match=setting) as error:
            server(url, concurrency=2).answer(questions(50))
        assert received.calls <= 2
    assert f"judge.base_url: {url}/chat/completions says {code}: no such thing" in str(error.value)


def test_a_server_that_has_answered_may_refuse_one_item():
    def reply(body):
        return (403, {}, b"") if "7" in body["messages"][0]["content"] else (200, {}, OK)

    with serving(Script(reply=reply)) as (url, _):
        engine = server(url)
        engine.answer(questions(1))
        answers = engine.answer(questions(10))
    assert [a.status for a in answers].count(Status.OK) == 9
    assert (answers[7].status, answers[7].calls) == (Status.HTTP_ERROR, 1)


def test_a_redirect_is_named_and_not_followed():
    with (
        serving(Script()) as (there, other),
        serving(Script(reply=lambda _: (307, {"Location": there}, b""))) as (url, received),
    ):
        answer = one_answer(url)
    assert answer.status is Status.HTTP_ERROR
    assert f"redirect to {there}" in answer.why
    assert (received.calls, other.calls) == (1, 0)


def test_a_name_that_comes_to_lead_to_the_metadata_service_is_refused():
    leads = iter([["127.0.0.1"], ["127.0.0.1"]])

    async def rebinding(host: str, port: int) -> list[str]:
        assert host == "judge.example"
        return next(leads, ["169.254.169.254"])

    with serving(Script()) as (url, received):
        port = url.split(":")[2].split("/")[0]
        address = Address(f"http://judge.example:{port}/v1", allow_insecure=True)
        engine = Server(Client(address, limits=Limits(concurrency=1), resolve=rebinding), "toy")
        answers: list[str] = []
        with pytest.raises(UsageError, match=r"leads to 169\.254\.169\.254"):
            engine.answer(questions(5), lambda _, answer: answers.append(answer.text))
    assert answers == right(questions(2))
    assert received.calls == 2
    assert received.headers[0]["Host"] == f"judge.example:{port}"


def test_the_next_address_is_tried_where_one_refuses():
    async def two(host: str, port: int) -> list[str]:
        return ["::1", "127.0.0.1"]

    with serving(Script()) as (url, _):
        address = Address(url.replace("127.0.0.1", "localhost"))
        engine = Server(Client(address, resolve=two), "toy")
        assert texts(engine.answer(questions(3))) == right(questions(3))


def test_a_configured_proxy_is_used_and_the_environments_is_not(monkeypatch):
    with serving(Script()) as (other, proxied), serving(Script()) as (url, _):
        proxy = other.removesuffix("/v1")
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy)
        assert texts(server(url).answer(questions(2))) == right(questions(2))
        assert proxied.calls == 0
        address = Address("http://judge.example/v1", allow_insecure=True)
        engine = Server(Client(address, proxy=SecretStr(proxy)), "toy")
        assert texts(engine.answer(questions(1))) == right(questions(1))
    assert proxied.paths == ["http://judge.example/v1/chat/completions"]


def test_the_key_is_sent_and_shown_nowhere(caplog):
    codes = iter([500, 401])
    script = Script(reply=lambda _: (next(codes), {}, f"who is {KEY}?".encode()))
    with caplog.at_level(logging.DEBUG), serving(script) as (url, received):
        client = Client(Address(url), SecretStr(KEY), limits=Limits(attempts=1))
        engine = Server(client, "toy")
        (answer,) = engine.answer(questions(1))
        with pytest.raises(UsageError) as error:
            engine.answer(questions(1))
    assert received.headers[0]["Authorization"] == f"Bearer {KEY}"
    shown = [repr(engine), str(engine), answer.why, str(error.value), caplog.text, engine.identity]
    assert all(KEY not in text for text in shown)
    assert "who is [redacted]?" in answer.why
    assert caplog.text


def test_it_works_where_a_loop_runs_already():
    async def notebook():
        return server(url).answer(questions(3))

    with serving(Script()) as (url, _):
        assert texts(asyncio.run(notebook())) == right(questions(3))


def test_a_misuse_of_the_client_is_no_fault_of_the_server(monkeypatch):
    # A fault is what the network or the server did; a mistake of ours must not hide as one.
    monkeypatch.setattr(httpx2.AsyncClient, "stream", lambda *_, **__: 1 / 0)
    with serving(Script()) as (url, _), pytest.raises(BaseExceptionGroup) as error:
        server(url).answer(questions(1))
    assert error.group_contains(ZeroDivisionError)
