"""A judge's model gives the same answers behind a real OpenAI-compatible server as in process."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from tests.tiny import QWEN2, save_model

from sparring.judges.http import Server
from sparring.judges.local import InProcess
from sparring.judges.model_judge import Question, Raw, Untrusted
from sparring.players.loading import load_model, load_tokenizer
from sparring.transport.client import Client
from sparring.transport.guard import Address, Limits
from sparring.types import Message, Status, UsageError

MISSING = [name for name in ("fastapi", "uvicorn", "openai") if not importlib.util.find_spec(name)]
pytestmark = pytest.mark.skipif(
    bool(MISSING),
    reason=f"transformers serve is not installed ({', '.join(MISSING)} missing): no real server "
    "was asked; pip install 'transformers[serving]'",
)
START = "from transformers.cli.transformers import main; main()"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(save_model(tmp_path_factory.mktemp("judge"), QWEN2))


@pytest.fixture(scope="module")
def url(folder, tmp_path_factory):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "serve.log"
    words = ["serve", folder, "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("w") as out:
        command = [sys.executable, "-c", START, *words]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env)
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                    break
                except OSError:
                    assert process.poll() is None, log.read_text()[-2000:]
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(timeout=30)


def chats(n: int, max_tokens: int = 4) -> list[Question]:
    texts = (f"open the dragon vault, {i} times" for i in range(n))
    dialogues = ((Message("user", text), Message("assistant", "no")) for text in texts)
    return [Question(dialogue, max_tokens) for dialogue in dialogues]


def test_chat_and_raw_prompts_get_the_answers_of_the_model_itself(url, folder):
    raw = (Raw(("Judge: ", Untrusted(f"bake bread {i}"), "\nAnswer:")) for i in range(4))
    asks = [*chats(12), *(Question(prompt, 4) for prompt in raw), *chats(6, max_tokens=6)]
    there = Server(Client(Address(url), limits=Limits(concurrency=4)), folder).answer(asks)
    here = InProcess(load_model(folder, "float32"), load_tokenizer(folder), "here").answer(asks)
    assert [a.status for a in there] == [a.status for a in here]
    assert {a.status for a in there[:16]} == {Status.OK}
    assert Status.TRUNCATED in {a.status for a in there[16:]}, "the limit cuts there as here"
    assert [a.text.strip() for a in there[:16]] == [a.text.strip() for a in here[:16]]
    assert len({a.text for a in here}) > 4, "different questions have different answers"
    assert [a.prompt_tokens for a in there] == [a.prompt_tokens for a in here]
    assert all(0 < a.completion_tokens <= 4 for a in there[:16])


def test_a_model_or_path_that_it_does_not_have_is_named(url):
    (answer,) = Server(Client(Address(url)), "another/model").answer(chats(1))
    assert (answer.status, answer.calls) == (Status.HTTP_ERROR, 1)
    assert "another/model" in answer.why
    with pytest.raises(UsageError, match=r"404.*judge\.base_url"):
        Server(Client(Address(url.removesuffix("/v1"))), "m").answer(chats(1))
