"""A judge's model behind a real OpenAI-compatible server says what it says in this process."""

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
        server = subprocess.Popen(
            [sys.executable, "-c", START, *words], stdout=out, stderr=subprocess.STDOUT, env=env
        )
        try:
            _wait(f"http://127.0.0.1:{port}/health", server, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            server.wait(timeout=30)


def _wait(health, server, log):
    for _ in range(600):
        if server.poll() is not None:
            pytest.fail(f"transformers serve ended: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(health, timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"transformers serve did not come up: {log.read_text()[-2000:]}")


def here(folder) -> InProcess:
    return InProcess(load_model(folder, "float32"), load_tokenizer(folder), "here")


def chats(n: int) -> list[Question]:
    texts = (f"open the dragon vault, {i} times" for i in range(n))
    return [Question((Message("user", text), Message("assistant", "no")), 4) for text in texts]


def test_chat_and_raw_prompts_get_the_answers_of_the_model_itself(url, folder):
    raw = [
        Question(Raw(("Judge: ", Untrusted(f"bake bread {i}"), "\nAnswer:")), 4) for i in range(4)
    ]
    asks = [*chats(12), *raw]
    there = Server(Client(Address(url), limits=Limits(concurrency=4)), folder).answer(asks)
    own = here(folder).answer(asks)
    assert {a.status for a in there} == {Status.OK}
    assert [a.text.strip() for a in there] == [a.text.strip() for a in own]
    assert len({a.text for a in own}) > 4, "different questions have different answers"
    assert [a.prompt_tokens for a in there] == [a.prompt_tokens for a in own]
    assert all(0 < a.completion_tokens <= 4 for a in there)


def test_an_answer_that_the_limit_cuts_is_truncated_there_as_here(url, folder):
    asks = [Question(ask.prompt, 6) for ask in chats(6)]
    there = Server(Client(Address(url)), folder).answer(asks)
    assert [a.status for a in there] == [a.status for a in here(folder).answer(asks)]
    assert Status.TRUNCATED in {a.status for a in there}


def test_a_model_that_it_does_not_serve_is_a_failed_question_with_the_reason(url):
    (told,) = Server(Client(Address(url)), "another/model").answer(chats(1))
    assert (told.status, told.calls) == (Status.HTTP_ERROR, 1)
    assert "another/model" in told.why


def test_a_path_that_it_does_not_have_names_the_setting(url):
    with pytest.raises(UsageError, match=r"404.*judge\.base_url"):
        Server(Client(Address(url.removesuffix("/v1"))), "m").answer(chats(1))
