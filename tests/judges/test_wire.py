"""How a question is sent to a server, and how each kind of response is read."""

import contextlib
import json
from dataclasses import replace

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.judges.http import Server, _named
from sparring.judges.model_judge import Answer, Question, Raw, Untrusted
from sparring.transport.client import Client, Fault
from sparring.transport.guard import Address
from sparring.types import Message, Status

CHAT = Question((Message("user", "open the vault"), Message("assistant", "no")), 64)
RAW = Question(Raw(("[INST] ", Untrusted("open </s>"), " [/INST]")), 128)
LABEL = Question(Raw(("Answer:",)), 1)
SERVER = Server(Client(Address("http://127.0.0.1:1/v1")), "toy")


def sent(question: Question, **settings) -> dict:
    return json.loads(replace(SERVER, **settings).request(question).body)


def fault(code: int, payload: bytes = b"", **headers: str) -> Fault:
    spelled = {name.replace("_", "-"): value for name, value in headers.items()}
    return _named(SERVER.client.fault(httpx2.Response(code, headers=spelled, content=payload)))


def choice(**fields) -> bytes:
    usage = {"prompt_tokens": 41, "completion_tokens": 5}
    return json.dumps({"choices": [{"finish_reason": "stop", **fields}], "usage": usage}).encode()


def chat(content: str | None, **fields) -> bytes:
    return choice(message={"role": "assistant", "content": content}, **fields)


def test_chat_messages_go_to_the_chat_endpoint_and_a_raw_prompt_to_the_one_without_a_template():
    assert [SERVER.request(q).path for q in (CHAT, RAW)] == ["chat/completions", "completions"]
    body = sent(CHAT)
    assert body["messages"] == [
        {"role": "user", "content": "open the vault"},
        {"role": "assistant", "content": "no"},
    ]
    assert (body["temperature"], body["max_tokens"], body["stream"]) == (0, 64, False)
    assert isinstance(body["seed"], int)
    assert sent(RAW)["prompt"] == "[INST] open </s> [/INST]"
    assert "messages" not in sent(RAW)


def test_a_schema_is_sent_where_the_server_can_hold_an_answer_to_one():
    question = replace(CHAT, schema={"type": "object"})
    assert "response_format" not in sent(question)
    form = sent(question, json_schema=True)["response_format"]
    assert (form["type"], form["json_schema"]["schema"]) == ("json_schema", {"type": "object"})
    assert "response_format" not in sent(CHAT, json_schema=True)


@given(st.text(st.characters(exclude_categories=()), max_size=40))
def test_any_text_is_sent_and_half_characters_are_replaced(text):
    content = sent(Question((Message("user", text),), 8))["messages"][0]["content"]
    assert content == "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)


@pytest.mark.parametrize(
    ("question", "payload", "status", "text"),
    [
        (CHAT, chat("safe"), Status.OK, "safe"),
        (RAW, choice(text=" yes"), Status.OK, " yes"),
        (CHAT, chat("safe, bec", finish_reason="length"), Status.TRUNCATED, "safe, bec"),
        (LABEL, choice(text="yes", finish_reason="length"), Status.OK, "yes"),
        (CHAT, chat("unsafe", finish_reason="content_filter"), Status.BLOCKED, ""),
        (CHAT, choice(message={"content": None, "refusal": "No."}), Status.REFUSED, "No."),
    ],
)
def test_an_answer_is_read_with_its_status_and_the_servers_own_counts(
    question, payload, status, text
):
    answer = SERVER.read(payload, question)
    assert replace(answer, why="") == Answer(text, status, 41, 5)
    assert bool(answer.why) == (status is not Status.OK)


@pytest.mark.parametrize(
    "usage",
    [
        *("null", "3", "{}", '"lots"', "[[[]]]"),
        '{"prompt_tokens": -3, "completion_tokens": true}',
        '{"prompt_tokens": [1], "completion_tokens": 1e400}',
        '{"prompt_tokens": ' + "9" * 4300 + "}",
    ],
)
def test_counts_that_are_none_are_not_counted(usage):
    body = '{"choices": [{"message": {"content": "safe"}}], "usage": ' + usage + "}"
    assert SERVER.read(body.encode(), CHAT) == Answer("safe")


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b" \r\n", b"<html>502: unsafe</html>", chat("unsafe")[:-9], b"[" * 100_000),
        *(b"[]", b"null", b'"unsafe"', b'{"choices": []}', b'{"choices": [7]}', b"\xff\xfe\x00"),
        b'{"choices": {"0": 1}}',
        json.dumps({"choices": [{"message": {"content": "safe"}}] * 2}).encode(),
        b'{"choices": [{"message": {"content": 1%s}}]}' % (b"1" * 4400),
        *(chat(None), chat(" \n"), choice(message=["safe"]), choice(text="safe")),
    ],
)
def test_a_body_that_is_no_answer_is_a_fault_that_may_pass(payload):
    with pytest.raises(Fault) as error:
        SERVER.read(payload, CHAT)
    assert error.value.again


AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}
NEVER = {301, 307, 400, 401, 402, 403, 404, 405, 410, 413, 418, 422, 451}


@pytest.mark.parametrize("code", sorted(AGAIN | NEVER))
def test_some_statuses_are_asked_again_after_the_wait_that_the_server_asks_for(code):
    result = fault(code, b"no", location="http://elsewhere.example/", retry_after="7")
    assert (result.again, result.wait) == ((True, 7) if code in AGAIN else (False, 0))
    assert result.pressed == (code in (429, 502, 503, 504))
    assert bool(result.hint) == (code in (401, 403, 404))
    assert ("elsewhere.example" in result.why) == (code < 400)


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (b"This model's maximum context length is 2048 tokens. ...", Status.TOO_LONG),
        (b'{"error": {"code": "content_filter", "message": "..."}}', Status.BLOCKED),
        (b"bad", Status.HTTP_ERROR),
    ],
)
def test_a_prompt_beyond_the_context_or_the_filter_is_named_as_such(message, status):
    assert fault(400, message).status is status


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reading(payload):
    with contextlib.suppress(Fault):
        assert SERVER.read(payload, CHAT).text
    why = fault(500, payload).why
    assert why.isprintable()
    assert len(why) < 400
