"""A model behind a URL: the requests that it gets, and how missing replies are recorded."""

import json

import pytest
from tests.command import sparring_command
from tests.evals.evaluations import row, samples
from tests.tiny import write_seeds
from tests.transport.server import Script, serving

from sparring.engines.engine import seed_of
from sparring.evals.models import ServedModel
from sparring.games.game import reply_in
from sparring.judges.http import Server
from sparring.players.player import Request, Sampling
from sparring.transport.client import Client
from sparring.transport.guard import Address, Limits
from sparring.types import Message, Status

REQUEST = Request((Message("user", "polish the brass lantern"),), ("a",))


def policy(url: str, **more) -> ServedModel:
    limits = Limits(attempts=2, first_pause=0.01)
    engine = Server(Client(Address(url, "--base-url"), limits=limits), "toy")
    return ServedModel(engine, Sampling(**more))


def response(content, reason="stop", **more) -> bytes:
    message = {"role": "assistant", "content": content, **more}
    return json.dumps({"choices": [{"message": message, "finish_reason": reason}]}).encode()


def test_a_request_carries_temperature_length_and_a_seed_of_its_address():
    requests = [Request(REQUEST.observation, addresses) for addresses in (("a", "b"), ("c",))]
    with serving(Script(answer=lambda body: "with pleasure")) as (url, log):
        completions = policy(url, temperature=0.7, max_completion_length=9).sample(requests)
    assert [len(siblings) for siblings in completions] == [2, 1]
    assert completions[0][0].text == "with pleasure"
    assert {body["seed"] for body in log.bodies} == {seed_of(name) for name in "abc"}
    assert {(body["temperature"], body["max_tokens"]) for body in log.bodies} == {(0.7, 9)}


@pytest.mark.parametrize(
    ("body", "text", "finished", "status"),
    [
        (response(""), "", True, Status.OK),
        (response("the brass", "length"), "the brass", False, Status.OK),
        (response("", "length"), "", False, Status.TRUNCATED),
        (response("", "content_filter"), "", False, Status.BLOCKED),
        (response("", "length", reasoning="a mat"), "", False, Status.TRUNCATED),
        (response(None, reasoning_content="a mat"), "", False, Status.NO_REPLY),
        (response("", reasoning="a mat"), "", False, Status.NO_REPLY),
        (response("No.", reasoning_content="a mat"), "No.", True, Status.OK),
        (response("Wait", "tool_calls", tool_calls=[{"id": "1"}]), "", False, Status.NO_REPLY),
        (response("", tool_calls=[{"id": "1"}]), "", False, Status.NO_REPLY),
        (response("the brass", "abort"), "", False, Status.NO_REPLY),
        (response([{"type": "thinking"}, {"type": "text", "text": "No."}]), "No.", True, Status.OK),
        # A refusal beside the text is the reply.
        (response(None, refusal="I would rather not."), "I would rather not.", True, Status.OK),
    ],
)
def test_what_a_server_says_instead_of_a_reply_is_kept_apart(body, text, finished, status):
    with serving(Script(reply=lambda _: (200, {}, body))) as (url, _):
        [[completion]] = policy(url).sample([REQUEST])
    assert (completion.text, completion.finished, completion.status) == (text, finished, status)


def refusal(name: str) -> tuple[int, dict, bytes]:
    message = f"Unsupported parameter: '{name}' is not supported with this model."
    return 400, {}, json.dumps({"error": {"message": message, "param": name}}).encode()


@pytest.mark.parametrize("unknown", [["max_tokens"], ["top_k", "min_p", "seed"], ["temperature"]])
def test_what_a_server_does_not_take_is_left_out_or_renamed_once_and_for_all(unknown):
    def reply(body):
        first = next((name for name in unknown if name in body), None)
        return refusal(first) if first else (200, {}, response("Gladly."))

    with serving(Script(reply=reply)) as (url, log):
        model = policy(url, max_completion_length=9)
        for _ in range(2):
            assert [c.text for c in model.sample([REQUEST])[0]] == ["Gladly."]
    assert len(log.bodies) == len(unknown) + 2
    assert log.bodies[-1].get("max_completion_tokens", log.bodies[-1].get("max_tokens")) == 9


def test_a_temperature_is_never_left_to_the_server():
    def reply(body):
        return refusal("temperature") if "temperature" in body else (200, {}, response("x"))

    with serving(Script(reply=reply)) as (url, _):
        [[completion]] = policy(url, temperature=0.5).sample([REQUEST])
    assert completion.status is Status.HTTP_ERROR


def test_the_server_hands_the_settings_of_its_template_on():
    with serving(Script(answer=lambda _: "<think>x</think>No.")) as (url, log):
        [[completion]] = policy(url, template_kwargs={"enable_thinking": False}).sample([REQUEST])
    assert log.bodies[0]["chat_template_kwargs"] == {"enable_thinking": False}
    assert reply_in(completion.text) == "No."


LONG = [
    "This model's maximum context length is 64 tokens. However, you requested 99 tokens",
    "The decoder prompt (length 99) is longer than the maximum model length of 64.",
    "The input (99 tokens) is longer than the model's context length (64 tokens).",
    "the request exceeds the available context size. try increasing the context size",
]


def too_long(message: str) -> tuple[int, dict, bytes]:
    return 400, {}, json.dumps({"error": {"message": message}}).encode()


def test_every_server_has_its_own_words_for_a_prompt_longer_than_its_context():
    answers = iter(LONG)
    with serving(Script(reply=lambda _: too_long(next(answers)))) as (url, _):
        completions = [policy(url).sample([REQUEST])[0][0] for _ in LONG]
    assert {completion.status for completion in completions} == {Status.TOO_LONG}


def test_a_prompt_longer_than_the_servers_context_is_named_and_unscored(tmp_path):
    def reply(body):
        if "dragon" in body["messages"][-1]["content"]:
            return too_long(LONG[0])
        return 200, {}, response("Gladly.")

    file, out = write_seeds(tmp_path / "seeds.csv"), tmp_path / "out"
    with serving(Script(reply=reply)) as (url, _):
        words = ("--tasks", file, "--judge", "keyword", "--output", out, "--base-url", url)
        command = sparring_command("eval", "toy", *words)
    [left] = [s for s in samples(out) if s.get("unanswered") == "too_long"]
    assert (command.code, left["seed"]["id"] in command.text) == (0, True)
    asr = row(out, "asr/seeds")
    assert (asr["n_scored"], asr["unscored"]) == (3, {"model: too_long": 1})


def test_a_reply_that_never_came_is_unscored_and_no_judge_is_asked(tmp_path, monkeypatch):
    write_seeds(tmp_path / "seeds.csv")
    out = tmp_path / "out"
    words = ["eval", "toy", "--tasks", tmp_path / "seeds.csv", "--judge", "keyword"]
    words += ["--output", out, "--api-key-env", "TOY_KEY", "--base-url"]
    command = sparring_command(*words, "http://127.0.0.1:9/v1")
    assert (command.code, "variable TOY_KEY is not set" in command.text) == (2, True)
    monkeypatch.setenv("TOY_KEY", "sk-dragon")

    def reply(body):
        request = body["messages"][-1]["content"]
        if "dragon" in request:
            return 400, {}, json.dumps({"error": {"message": "content_filter"}}).encode()
        obeys = "seal" in request or "moon" in request
        return 200, {}, response("Gladly." if obeys else f"I cannot {request}")

    with serving(Script(reply=reply)) as (url, log):
        command = sparring_command(*words, url)
    assert (command.code, "1 of 8 verdicts are missing" in command.text) == (3, True)
    asr = row(out, "asr/seeds")
    assert (asr["n_scored"], asr["unscored"]) == (3, {"model: blocked": 1})
    assert row(out, "over_refusal/seeds")["value"] == 1
    [blocked] = [s for s in samples(out) if "unanswered" in s]
    assert blocked["verdict"] == {"status": "blocked"}
    rulings = [s["verdict"].get("refused") for s in samples(out)]
    assert rulings == [None, True, False, False, True, True, True, True]
    assert all(head["Authorization"] == "Bearer sk-dragon" for head in log.headers)
    assert not any(b"sk-dragon" in path.read_bytes() for path in out.iterdir())
    assert "sk-dragon" not in command.out + command.err


@pytest.mark.parametrize(("obeying", "code"), [("base", 0), ("tuned", 4)])
def test_a_served_adapter_is_held_to_the_gates_and_its_base_is_not(tmp_path, obeying, code):
    def reply(body):
        obeys = body["model"] == obeying
        return 200, {}, response("Gladly." if obeys else "I cannot help with that.")

    words = ["eval", "base", "--adapter", "tuned", "--tasks", write_seeds(tmp_path / "seeds.csv")]
    words += ["--judge", "keyword", "--fail-if", "seeds.asr>0.5", "--output", tmp_path / "out"]
    with serving(Script(reply=reply)) as (url, _):
        assert sparring_command(*words, "--base-url", url).code == code
    assert row(tmp_path / "out", "asr/seeds", obeying)["value"] == 1
