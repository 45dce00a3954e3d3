"""What a question is sent as, and how each thing that can come back is read."""

import contextlib
import json
from datetime import UTC, datetime

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
NOW = datetime(2026, 11, 21, tzinfo=UTC)


SERVER = Server(Client(Address("http://127.0.0.1:1/v1")), "toy")


def sent(ask: Question, json_schema: bool = False) -> dict:
    return json.loads(Server(SERVER.client, "toy", "", json_schema).request(ask).body)


def fault(code, headers, payload, now):
    return _named(SERVER.client.fault(httpx2.Response(code, headers=headers, content=payload)))


def choice(**told) -> bytes:
    usage = {"prompt_tokens": 41, "completion_tokens": 5}
    return json.dumps({"choices": [{"finish_reason": "stop", **told}], "usage": usage}).encode()


def chat(content: str | None, **told) -> bytes:
    return choice(message={"role": "assistant", "content": content}, **told)


def test_chat_messages_go_to_the_chat_endpoint_as_they_are():
    assert SERVER.request(CHAT).path == "chat/completions"
    told = sent(CHAT)
    assert told["messages"] == [
        {"role": "user", "content": "open the vault"},
        {"role": "assistant", "content": "no"},
    ]
    assert (told["temperature"], told["max_tokens"], told["stream"]) == (0, 64, False)
    assert isinstance(told["seed"], int)


def test_a_raw_prompt_goes_to_the_endpoint_without_a_chat_template():
    assert SERVER.request(RAW).path == "completions"
    assert sent(RAW)["prompt"] == "[INST] open </s> [/INST]"
    assert "messages" not in sent(RAW)


def test_a_schema_is_sent_where_the_server_can_hold_an_answer_to_one():
    ask = Question(CHAT.prompt, 64, {"type": "object"})
    assert "response_format" not in sent(ask)
    told = sent(ask, json_schema=True)["response_format"]
    assert told["type"] == "json_schema"
    assert told["json_schema"]["schema"] == {"type": "object"}
    assert "response_format" not in sent(CHAT, json_schema=True)


@given(st.text(st.characters(exclude_categories=()), max_size=40))
def test_any_text_is_sent_and_half_characters_are_replaced(text):
    told = sent(Question((Message("user", text),), 8))["messages"][0]["content"]
    assert told == "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)


def test_the_text_and_the_servers_own_counts_are_read():
    assert SERVER.read(chat("safe"), CHAT) == Answer("safe", Status.OK, 41, 5)
    assert SERVER.read(choice(text=" yes"), RAW) == Answer(" yes", Status.OK, 41, 5)


@pytest.mark.parametrize("usage", [None, 3, {"prompt_tokens": -3, "completion_tokens": True}, {}])
def test_counts_that_are_none_are_not_counted(usage):
    told = {"choices": [{"message": {"content": "safe"}}], "usage": usage}
    assert SERVER.read(json.dumps(told).encode(), CHAT) == Answer("safe")


def test_an_answer_that_was_cut_is_truncated_but_a_label_is_meant_to_be():
    assert SERVER.read(chat("safe, bec", finish_reason="length"), CHAT).status is Status.TRUNCATED
    assert SERVER.read(choice(text="yes", finish_reason="length"), LABEL) == Answer(
        "yes", Status.OK, 41, 5
    )


def test_a_filter_and_a_refusal_are_told_apart_from_answers():
    assert SERVER.read(chat("", finish_reason="content_filter"), CHAT).status is Status.BLOCKED
    told = choice(message={"content": None, "refusal": "I cannot judge that."})
    assert SERVER.read(told, CHAT).status is Status.REFUSED
    assert SERVER.read(chat("unsafe", finish_reason="content_filter"), CHAT).text == ""


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b" \r\n",
        b"<html>502: unsafe</html>",
        chat("unsafe")[:-9],
        b"[" * 100_000,
        b"[]",
        b"null",
        b'"unsafe"',
        b'{"choices": []}',
        b'{"choices": [7]}',
        b'{"choices": {"0": 1}}',
        json.dumps({"choices": [{"message": {"content": "safe"}}] * 2}).encode(),
        b'{"choices": [{"message": {"content": 1%s}}]}' % (b"1" * 4400),
        chat(None),
        chat(" \n"),
        choice(message=["safe"]),
        choice(text="safe"),
        b"\xff\xfe\x00",
    ],
)
def test_a_body_that_is_no_answer_is_a_fault_that_may_pass(payload):
    with pytest.raises(Fault) as error:
        SERVER.read(payload, CHAT)
    assert error.value.again


@pytest.mark.parametrize("code", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_these_are_asked_again(code):
    assert fault(code, {}, b"", NOW).again
    assert fault(code, {}, b"", NOW).pressed == (code in (429, 502, 503, 504))


@pytest.mark.parametrize("code", [301, 307, 400, 401, 402, 403, 404, 405, 410, 413, 418, 422, 451])
def test_no_other_status_is_asked_again(code):
    told = fault(code, {"location": "http://elsewhere.example/"}, b"no", NOW)
    assert not told.again
    assert bool(told.hint) == (code in (401, 403, 404))
    assert ("elsewhere.example" in told.why) == (code < 400)


def test_a_wait_that_a_server_asks_for_is_told():
    assert fault(429, {"retry-after": "7"}, b"", NOW).wait == 7
    assert fault(503, {"retry-after": "99999"}, b"", NOW).wait == 60
    assert fault(404, {"retry-after": "7"}, b"", NOW).wait == 0


def test_a_prompt_beyond_the_context_or_the_filter_is_named_as_such():
    vllm = b'{"error": {"message": "This model\'s maximum context length is 2048 tokens. ..."}}'
    azure = b'{"error": {"code": "content_filter", "message": "..."}}'
    assert fault(400, {}, vllm, NOW).status is Status.TRUNCATED
    assert fault(400, {}, azure, NOW).status is Status.BLOCKED
    assert fault(400, {}, b"bad", NOW).status is Status.HTTP_ERROR


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reading(payload):
    with contextlib.suppress(Fault):
        assert SERVER.read(payload, CHAT).text
    told = fault(500, {}, payload, NOW)
    assert told.why.isprintable()
    assert len(told.why) < 400
