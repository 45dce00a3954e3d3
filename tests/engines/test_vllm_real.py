"""A real vLLM server: what the loopback server is believed to do is what vLLM does.

Only where SPARRING_VLLM_PYTHON names an interpreter that has vLLM; `scripts/test-vllm` makes one.
"""

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest
from tests.engines.test_served_policy import A, D, Table, furthest, tokens
from tests.engines.test_served_run import played
from tests.players.by_hand import network
from tests.tiny import QWEN2, tokenizer, write_seeds

from sparring.engines.engine import Decoding, SeededPrompt
from sparring.engines.vllm import VllmServer
from sparring.types import SparringError, UsageError

PYTHON = os.environ.get("SPARRING_VLLM_PYTHON")
pytestmark = pytest.mark.skipif(
    not PYTHON, reason="NOT TESTED: no vLLM (SPARRING_VLLM_PYTHON); scripts/test-vllm runs this"
)


def save(folder):
    """A Qwen2 of random weights whose heads are as wide as vLLM's kernels want: 64."""
    words = tokenizer(QWEN2)
    end = words.convert_tokens_to_ids("<|im_end|>")
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "head_dim": 64}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 2048}
    ids = {"vocab_size": len(words), "eos_token_id": end, "bos_token_id": None}
    network("qwen2", 0, **sizes, **heads, **ids, initializer_range=0.1).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vllm")
    path = save(folder / "qwen2")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", path]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--max-model-len", "1024", "--enforce-eager", "--enable-lora"]
    command += ["--max-lora-rank", "8", "--max-loras", "2", "--max-cpu-loras", "4"]
    command += ["--logprobs-mode", "processed_logprobs"]
    own = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_CPU_KVCACHE_SPACE": "1"}
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | own
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        try:
            _wait(process, port, folder / "log")
            yield path, f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(60)


def _wait(process, port, log):
    for _ in range(600):
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
        except (OSError, urllib.error.URLError):
            time.sleep(1)
        else:
            return
    raise AssertionError(log.read_text()[-3000:])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_every_version_is_served_as_the_learner_has_it(server, tmp_path, temperature):
    table = Table(*server, tmp_path / "adapters", temperature)
    for _ in range(3):
        for player in (A, D):
            rows = table.sample(player)
            assert [len(row) for row in rows] == [3, 0, 1]
            assert furthest(table, player, rows, temperature) < 1e-4
        table.learn(rate=3e-3)
    assert max(table.publishing.differences.values()) < 1e-5


def test_an_evicted_adapter_comes_back_and_a_past_self_plays(server, tmp_path):
    table = Table(*server, tmp_path / "adapters", keep=2)
    first, begun = table.sample(), table.own[D].snapshot()
    assert tokens(table.sample()) == tokens(first)
    for _ in range(2):
        table.learn(rate=0.1)
        assert tokens(table.sample()) != tokens(first)
    roots = table.publishing.engine.adapters().values()
    assert sum(tmp_path in root.parents for root in roots) == 2
    assert tokens(table.past(D, begun)) == tokens(first)


def test_magic_plays_two_rounds(server, tmp_path):
    path, url = server
    seeds = f"data.train=[{{path: {write_seeds(tmp_path / 'seeds.csv')}}}]"
    result = played(tmp_path / "run", url, path, seeds, "rounds=2")
    assert result.code == 0, result.err
    assert len([*(tmp_path / "run" / "rounds.jsonl").open()]) == 2


class Stale(VllmServer):
    """Loads the adapter of the previous version, whichever version it should load."""

    before = None

    def load(self, name, folder):
        super().load(name, self.before or folder)
        self.before = self.before or folder


def test_other_weights_under_a_new_name_are_refused(server, tmp_path):
    table = Table(*server, tmp_path / "adapters")
    table.publishing.engine = Stale(server[1], str(server[0]))
    table.learn(rate=1e-2)
    table.sample()
    table.learn(rate=1e-3)
    with pytest.raises(SparringError, match="serves the version before it"):
        table.sample()


def test_errors_are_vllms_own_words(server, tmp_path):
    engine = VllmServer(server[1], str(server[0]))
    with pytest.raises(UsageError, match=r"load_lora_adapter says 4.*nowhere"):
        engine.load("defender-v9", tmp_path / "nowhere")
    engine.unload("defender-v9")  # gone already
    with pytest.raises(UsageError, match=r"completions says 404 .*defender-v9.*does not exist"):
        engine.draw("defender-v9", [SeededPrompt((5, 6, 7), 1)], Decoding(1.0, 4))
