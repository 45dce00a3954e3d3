"""A run of MAGIC whose players sample from a vLLM server, and what cannot be served."""

import json

import pytest
from tests import test_any_model as any_model
from tests.command import sparring_command
from tests.engines.vllm_server import serving
from tests.tiny import QWEN2, save_model, write_pool, write_seeds

KEYWORD = ("judge.kind=keyword", "game.gate=false", "game.helpfulness=0")
SHORT = (
    *("rounds=4", "schedule.every=1", "saving.checkpoint_every=1", "saving.transcripts_every=0"),
    *("learner.num_generations=3", "learner.seeds_per_round={attacker: 2, defender: 16}"),
    *("sampling.max_completion_length=24", "attacker.lora.r=4", "defender.lora.r=4"),
    "learner.learning_rate=1e-2",
    *("exam.holdout=0.5", "exam.crossplay=0", "exam.n=2", "warm_up.steps=0"),
    *("memory.experience.replay_share=0", "memory.league.opponents=uniform"),
    *("memory.league.keep_every=1", "memory.league.share=1.0", "learner.beta=0.01"),
)

FORMAT = (*any_model.SHORT, "rounds=1", "learner.num_generations=2", "learner.seeds_per_round=1")
"""A base that knows the attacker's format: some of its rewrites parse, so there is something to
learn."""


def played(folder, url, path, *more):
    return sparring_command(
        *("train", "magic", f"output_dir={folder}", *KEYWORD, *SHORT),
        *(f"{player}.model_name_or_path={path}" for player in ("attacker", "defender")),
        f"sampling={{engine: vllm, base_url: {url}, server: {{adapters: 3, probe_limit: 1e-3}}}}",
        *more,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served-run")
    seeds = f"data.train=[{{path: {write_seeds(folder / 'seeds.csv')}}}]"
    pool = f"attacker.warm_start={write_pool(folder / 'pool.jsonl')}"
    start = any_model.models(folder, QWEN2, QWEN2)
    first = any_model.train(folder / "first", start, "shared", seeds, pool, *FORMAT)
    path = first.checkpoint(1, "defender")
    with serving(path) as (vllm, url):
        before = played(folder / "run", url, path, seeds, "--max-rounds", "2")
        assert before.code == 0, before.err
        half = set(vllm.roots)
        after = played(folder / "run", url, path, seeds, "--resume")
        assert after.code == 0, after.err
        yield folder / "run", vllm, half


def rounds(folder):
    return [json.loads(line) for line in (folder / "rounds.jsonl").open()]


def test_magic_plays_to_its_end_with_past_selves_through_a_server(run):
    folder, vllm, half = run
    assert [record["round"] for record in rounds(folder)] == [0, 1, 2, 3]
    assert json.loads((folder / "run.json").read_text())["status"] == "complete"
    sampled = {request["model"].rsplit("-", 1)[0] for request in vllm.requests}
    assert {"attacker-v0", "attacker-v1", "defender-v0"} <= sampled
    assert {"attacker-past", "defender-past"} & sampled, "the league"
    assert vllm.most_loaded == 3, "server.adapters"
    assert half - set(vllm.roots), "what the first process left is gone"
    assert {path.name for path in (folder / "adapters").iterdir()} == set(vllm.roots)


def test_the_mismatch_of_every_update_is_logged(run):
    folder, _, _ = run
    for record in rounds(folder):
        (player,), metrics = record["learns"], record["metrics"]
        if f"{player}/loss" in metrics:
            assert metrics[f"{player}/sampling_ratio/mean"] == pytest.approx(1, abs=1e-3)
            assert metrics[f"{player}/sampling_logp_difference"] < 1e-3
    assert any("defender/sampling_ratio/mean" in record["metrics"] for record in rounds(folder))


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("weights=separate", "weights: separate cannot be published"),
        ("weights=shared", "set weights=adapters or sampling.engine=local"),
        ("defender.lora.modules_to_save=[embed_tokens]", "defender.lora.modules_to_save: vLLM"),
        ("sampling.engine=local", "base_url: goes with sampling.engine=vllm"),
        ("sampling.base_url=127.0.0.1:8000", r"wanted http(s)://HOST"),
        ("sampling.base_url=null", "vllm is not installed here"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(tmp_path, override, why):
    path = save_model(tmp_path / "qwen2", QWEN2)
    seeds = f"data.train=[{{path: {write_seeds(tmp_path / 'seeds.csv')}}}]"
    result = played(tmp_path / "run", "http://127.0.0.1:9", path, seeds, override)
    assert result.code == 2, result.err
    assert why in result.err
