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
import torch
from tests.engines.test_served_policy import REQUESTS, A, D, Table, furthest
from tests.engines.test_served_run import played
from tests.tiny import QWEN2, tokenizer, write_seeds
from transformers import AutoConfig, AutoModelForCausalLM

from sparring.engines.vllm import VllmServer
from sparring.types import SparringError, UsageError

PYTHON = os.environ.get("SPARRING_VLLM_PYTHON")
pytestmark = pytest.mark.skipif(
    not PYTHON, reason="NOT TESTED: no vLLM (SPARRING_VLLM_PYTHON); scripts/test-vllm runs this"
)


def save(folder):
    """A Qwen2 of random weights whose heads are as wide as vLLM's kernels want: 64."""
    words = tokenizer(QWEN2)
    config = AutoConfig.for_model(
        "qwen2",
        vocab_size=len(words),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        eos_token_id=words.convert_tokens_to_ids("<|im_end|>"),
        bos_token_id=None,
        pad_token_id=None,
        initializer_range=0.1,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
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
            said = table.policy[player].sample(REQUESTS)
            assert [len(row) for row in said] == [3, 0, 1]
            assert furthest(table, player, said, temperature) < 1e-4
        table.learn(D, rate=3e-3)
    assert max(table.publishing.differences.values()) < 1e-5


def test_the_same_address_says_the_same_and_a_past_self_speaks(server, tmp_path):
    table = Table(*server, tmp_path / "adapters")
    first = table.policy[D].sample(REQUESTS)
    kept = table.own[D].snapshot()
    again = [c.token_ids for c in table.policy[D].sample(REQUESTS)[0]]
    assert again == [c.token_ids for c in first[0]]
    table.learn(D, rate=0.1, steps=3)
    past = table.past(D, kept)
    assert [c.token_ids for c in past[0]] == again
    assert [c.token_ids for c in table.policy[D].sample(REQUESTS)[0]] != again


def test_magic_plays_two_rounds(server, tmp_path):
    path, url = server
    seeds = f"data.train=[{{path: {write_seeds(tmp_path / 'seeds.csv')}}}]"
    told = played(tmp_path / "run", url, path, seeds, "rounds=2")
    assert told.code == 0, told.err
    assert len([*(tmp_path / "run" / "rounds.jsonl").open()]) == 2


class Stale(VllmServer):
    """Loads the folder of the version before, whatever it is asked for."""

    before = None

    def load(self, name, folder):
        super().load(name, self.before or folder)
        self.before = self.before or folder


def test_other_weights_under_a_new_name_are_refused(server, tmp_path):
    table = Table(*server, tmp_path / "adapters")
    path, url = server
    table.publishing.engine = Stale(url, str(path))
    table.learn(D, rate=1e-2)
    table.policy[D].sample(REQUESTS)
    table.learn(D, rate=1e-3)
    with pytest.raises(SparringError, match="it serves the version before it"):
        table.policy[D].sample(REQUESTS)


def test_evicted_adapters_are_gone_and_come_back(server, tmp_path):
    table = Table(*server, tmp_path / "adapters", keep=2)
    first, kept = table.policy[D].sample(REQUESTS), table.own[D].snapshot()
    for _ in range(2):
        table.learn(D, rate=1e-2)
        table.policy[D].sample(REQUESTS)
    mine = [n for n, root in table.publishing.engine.adapters().items() if tmp_path in root.parents]
    assert len(mine) == 2
    table.own[D].load(kept)
    said = table.policy[D].sample(REQUESTS)
    assert [c.token_ids for c in said[0]] == [c.token_ids for c in first[0]]


def test_errors_are_vllms_own_words(server, tmp_path):
    path, url = server
    engine = VllmServer(url, str(path))
    with pytest.raises(UsageError, match=r"load_lora_adapter says 4.*nowhere"):
        engine.load("defender-v9", tmp_path / "nowhere")
    engine.unload("defender-v9")  # gone already
    with pytest.raises(UsageError, match=r"completions says 404 .*defender-v9.*does not exist"):
        engine.draw("defender-v9", *_one())


def _one():
    from sparring.engines.engine import Decoding, SeededPrompt

    return [SeededPrompt((5, 6, 7), 1)], Decoding(1.0, 4)
