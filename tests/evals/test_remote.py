"""A model behind a URL: what it is asked, and what becomes of replies it does not give."""

import json

import pytest
from tests.command import sparring_command
from tests.evals.asked import row, samples
from tests.tiny import write_seeds
from tests.transport.server import Script, serving

from sparring.engines.engine import seed_of
from sparring.evals.models import Remote
from sparring.judges.http import Server
from sparring.players.player import Request
from sparring.transport.client import Client
from sparring.transport.guard import Address, Limits
from sparring.types import Message, Status

ASKED = (Message("user", "polish the brass lantern"),)


def policy(url: str, **more) -> Remote:
    limits = Limits(attempts=2, first_pause=0.01)
    return Remote(Server(Client(Address(url, "--base-url"), limits=limits), "toy"), **more)


def saying(content, reason="stop"):
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": reason}
    body = json.dumps({"choices": [choice]}).encode()
    return Script(reply=lambda _: (200, {}, body))


def test_a_request_carries_temperature_length_and_a_seed_of_its_address():
    with serving(Script(answer=lambda told: "with pleasure")) as (url, seen):
        told = policy(url, temperature=0.7, max_completion_length=9).sample(
            [Request(ASKED, ("a", "b")), Request(ASKED, ("c",))]
        )
    assert [len(replies) for replies in told] == [2, 1]
    assert told[0][0].text == "with pleasure"
    assert {body["seed"] for body in seen.bodies} == {seed_of(name) for name in "abc"}
    assert {(body["temperature"], body["max_tokens"]) for body in seen.bodies} == {(0.7, 9)}


@pytest.mark.parametrize(
    ("content", "reason", "text", "finished", "status"),
    [
        ("", "stop", "", True, Status.OK),
        ("the brass", "length", "the brass", False, Status.OK),
        ("", "length", "", False, Status.TRUNCATED),
        ("", "content_filter", "", False, Status.BLOCKED),
    ],
)
def test_what_a_server_says_instead_of_a_reply_is_kept_apart(
    content, reason, text, finished, status
):
    with serving(saying(content, reason)) as (url, _):
        [[told]] = policy(url).sample([Request(ASKED, ("a",))])
    assert (told.text, told.finished, told.status) == (text, finished, status)


def test_a_refusal_beside_the_text_is_the_reply():
    message = {"role": "assistant", "content": None, "refusal": "I would rather not."}
    body = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
    with serving(Script(reply=lambda _: (200, {}, body))) as (url, _):
        [[told]] = policy(url).sample([Request(ASKED, ("a",))])
    assert (told.text, told.status) == ("I would rather not.", Status.OK)


def test_a_reply_that_never_came_is_unscored_and_no_judge_is_asked(tmp_path, monkeypatch):
    write_seeds(tmp_path / "seeds.csv")
    monkeypatch.setenv("TOY_KEY", "sk-dragon")

    def reply(body):
        asked = body["messages"][-1]["content"]
        refused = {"error": {"message": "content_filter"}}
        if "dragon" in asked:
            return 400, {}, json.dumps(refused).encode()
        said = "Gladly." if "seal" in asked or "moon" in asked else f"I cannot {asked}"
        choice = {"message": {"content": said}, "finish_reason": "stop"}
        return 200, {}, json.dumps({"choices": [choice]}).encode()

    words = ["--tasks", tmp_path / "seeds.csv", "--judge", "keyword", "--output", tmp_path / "out"]
    with serving(Script(reply=reply)) as (url, seen):
        words += ["--base-url", url, "--api-key-env", "TOY_KEY"]
        told = sparring_command("eval", "toy", *words)
    assert (told.code, "1 of 8 verdicts are missing" in told.text) == (3, True)
    asr = row(tmp_path / "out", "asr/seeds")
    assert (asr["n_scored"], asr["unscored"]) == (3, {"model: blocked": 1})
    assert row(tmp_path / "out", "over_refusal/seeds")["value"] == 1
    [blocked] = [s for s in samples(tmp_path / "out") if "unanswered" in s]
    assert blocked["verdict"] == {"status": "blocked"}
    rulings = [s["verdict"].get("refused") for s in samples(tmp_path / "out")]
    assert rulings == [None, True, False, False, True, True, True, True]
    assert all(head["Authorization"] == "Bearer sk-dragon" for head in seen.headers)
    files = [p.read_bytes() for p in (tmp_path / "out").iterdir()]
    assert not any(b"sk-dragon" in data for data in files)
    assert "sk-dragon" not in told.out + told.err


def test_a_key_that_is_not_there_is_refused(tmp_path):
    write_seeds(tmp_path / "seeds.csv")
    words = ["--tasks", tmp_path / "seeds.csv", "--judge", "keyword", "--api-key-env", "NO_KEY"]
    told = sparring_command("eval", "toy", *words, "--base-url", "http://127.0.0.1:9/v1")
    assert (told.code, "variable NO_KEY is not set" in told.text) == (2, True)
