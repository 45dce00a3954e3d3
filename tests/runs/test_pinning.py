"""A hub model is resolved to a commit once; it is recorded and used by every later verb."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants
from tests.command import sparring_command
from tests.tiny import QWEN2, save_model, write_seeds

from sparring.estimate.shape import shape_of
from sparring.evals.models import ModelSettings
from sparring.players.loading import commit, load_model
from sparring.players.player import Sampling
from sparring.players.ranks import ALONE
from sparring.players.weights import adapters
from sparring.runs import recipes
from sparring.runs.models import pinned, publishing
from sparring.settings.config import parse
from sparring.store.folder import RunDir
from sparring.types import Player, UsageError

NAME = "keeper/vault-1b"
OLD, NEW = "a1" * 20, "b2" * 20


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """A hub that is only its cache: one model in two commits; `main` and the tag `v1` are OLD."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    place = cache / f"models--{NAME.replace('/', '--')}"
    for seed, sha in enumerate((OLD, NEW)):
        save_model(place / "snapshots" / sha, QWEN2, seed)
    (place / "refs").mkdir()
    for name in ("main", "v1"):
        (place / "refs" / name).write_text(OLD)
    return place


def push(hub: Path) -> None:
    """Move `main` to the other commit."""
    (hub / "refs" / "main").write_text(NEW)


def played(folder: Path, *more: str):
    """A run of two rounds with the hub's model in both roles."""
    seeds = folder.parent / "seeds.csv"
    if not seeds.exists():
        write_seeds(seeds)
    return sparring_command(
        *("train", "magic", f"output_dir={folder}", f"data.train=[{{path: {seeds}}}]"),
        *(f"{player}.model_name_or_path={NAME}" for player in Player),
        *("judge.kind=keyword", "game.gate=false", "game.helpfulness=0", "warm_up.steps=0"),
        *("rounds=2", "schedule.every=1", "learner.num_generations=2", "exam.crossplay=0"),
        *("learner.seeds_per_round=2", "sampling.max_completion_length=4", "exam.holdout=0.5"),
        *more,
    )


def written(folder: Path) -> dict:
    return yaml.safe_load((folder / "config.yaml").read_text())


def revisions(folder: Path) -> set[str]:
    return {written(folder)[player]["revision"] for player in Player}


def test_what_a_name_means_today_is_a_commit_and_a_commit_is_itself(hub):
    assert commit(NAME) == commit(NAME, "main") == commit(NAME, "v1") == OLD
    push(hub)
    assert (commit(NAME), commit(NAME, "v1")) == (NEW, OLD)
    old, new, newest = (load_model(NAME, revision=name) for name in (OLD, NEW, None))
    weight = [model.model.embed_tokens.weight for model in (old, new, newest)]
    assert weight[2].equal(weight[1])
    assert not weight[2].equal(weight[0])
    shutil.rmtree(hub)
    assert commit(NAME, OLD) == OLD


def test_a_model_or_a_revision_that_is_not_there_is_a_usage_error(hub, tmp_path):
    for name, revision in ((NAME, "no-such-branch"), ("keeper/no-such-model", None)):
        with pytest.raises(UsageError, match=f"model_name_or_path: cannot load {name}"):
            commit(name, revision)
    folder = str(save_model(tmp_path / "model", QWEN2))
    assert commit(folder) is None
    for load in (commit, lambda path, revision: load_model(path, revision=revision)):
        with pytest.raises(UsageError, match=r"revision: .* is a folder"):
            load(folder, "main")


def without_revisions(run: Path):
    tree = written(run)
    for player in Player:
        tree[player]["revision"] = None
    return parse(tree)


def test_a_run_keeps_the_commit_it_wrote_down_and_refuses_another_or_a_moved_branch(hub, tmp_path):
    run = tmp_path / "run"
    ended = played(run, "--max-rounds", "1")
    assert ended.code == 0, ended.text
    assert ended.err.count(f"{NAME} is taken at commit {OLD} (the newest as of now)") == 1
    assert revisions(run) == {OLD}
    branch, other = ([f"{p}.revision={name}" for p in Player] for name in ("main", NEW))
    assert played(run, "--resume", "--dry-run", *branch).code == 0
    push(hub)
    for words in (other, branch):
        ended = played(run, "--resume", *words)
        assert (ended.code, f"defender.revision: {OLD} → {NEW}" in ended.err) == (2, True)
    config = recipes.check_resumable(RunDir.open(run), without_revisions(run))
    assert {config.attacker.revision, config.defender.revision} == {OLD}
    ended = played(run, "--resume")
    assert ended.code == 0, ended.text
    assert "is taken at commit" not in ended.text
    assert revisions(run) == {OLD}
    exported = sparring_command("export", run, "--role", "defender", "--merge")
    assert exported.code == 0, exported.text
    card = (run / "export" / "defender-000002-merged" / "README.md").read_text()
    assert f'base_model: "{NAME}"' in card
    assert OLD in card
    adapter = run / "checkpoints" / "round_000002" / "defender" / "adapter_config.json"
    assert json.loads(adapter.read_text())["revision"] == OLD


def test_both_players_of_one_base_are_of_one_commit(hub, tmp_path):
    for field, words in (
        ("revision", [f"defender.revision={OLD}", f"attacker.revision={NEW}"]),
        ("dtype", ["defender.dtype=bfloat16"]),
    ):
        ended = played(tmp_path / "run", *words)
        assert ended.code == 2
        assert f"attacker.{field} and defender.{field} differ" in ended.err


def evaluated(folder: Path, *more: object):
    seeds = write_seeds(folder / "seeds.csv")
    words = ("--tasks", seeds, "--judge", "keyword", "--limit", "1", "--max-completion-length", "2")
    ended = sparring_command("eval", NAME, *words, *more)
    assert ended.code == 0, ended.text
    return ended


def adapter_of(folder: Path, revision: str) -> str:
    """An adapter that names the commit it was trained on."""
    lora = {"revision": revision, "target_modules": "all-linear", "r": 2}
    own = adapters(load_model(NAME, revision=revision), dict.fromkeys(Player, lora), 0)
    own[Player.DEFENDER].save(folder)
    return str(folder)


def test_an_adapter_names_the_commit_of_its_base_and_eval_takes_it(hub, tmp_path):
    config, notes = pinned(parse({p: {"model_name_or_path": NAME} for p in Player}), {})
    assert (len(notes), config.defender.revision) == (1, OLD)
    adapter = adapter_of(tmp_path / "adapter", OLD)
    push(hub)
    note = f"{NAME} is taken at commit {OLD}, on which the adapters were trained"
    assert note in evaluated(tmp_path, "--adapter", adapter).err.replace("\n", " ")
    assert f"{NAME} is taken at commit {NEW}" in evaluated(tmp_path).err
    assert "is taken at" not in evaluated(tmp_path, "--revision", NEW).err


@pytest.mark.parametrize("in_memory", Player)
def test_only_the_model_that_is_loaded_by_its_name_has_a_commit(in_memory, hub):
    other = Player.ATTACKER if in_memory is Player.DEFENDER else Player.DEFENDER
    config = parse({player: {"model_name_or_path": NAME} for player in Player})
    config, notes = pinned(config, {in_memory: (None, None)})
    assert (config.player(in_memory).revision, config.player(other).revision) == (None, OLD)
    assert len(notes) == 1


def test_adapters_of_two_commits_are_not_measured_on_one(hub, tmp_path):
    both = tuple(adapter_of(tmp_path / name, at) for name, at in (("old", OLD), ("new", NEW)))
    assert ModelSettings([NAME], Sampling(), both[1:]).revision_of(NAME) == NEW
    assert ModelSettings([NAME], Sampling(), both, revision=OLD).revision_of(NAME) == OLD
    with pytest.raises(UsageError, match=f"different commits of {NAME}"):
        ModelSettings([NAME], Sampling(), both).revision_of(NAME)


def test_an_estimate_is_of_the_commit_asked_for(hub):
    config = hub / "snapshots" / NEW / "config.json"
    wider = json.loads(config.read_bytes()) | {"intermediate_size": 96}
    config.unlink()  # the snapshots may share a file
    config.write_text(json.dumps(wider))
    first, old, new = (shape_of(NAME, revision=at).parameters for at in (None, OLD, NEW))
    assert first == old == new - 2 * 3 * 32 * (96 - 64)


def test_vllm_in_this_process_reads_the_commit_that_the_learner_has(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("sparring.engines.vllm.find_spec", lambda name: True)
    seeds = write_seeds(tmp_path / "seeds.csv")
    tree = {"recipe": "magic", "data": {"train": [{"path": str(seeds)}]}, "weights": "adapters"}
    tree |= {p.value: {"model_name_or_path": NAME, "revision": OLD} for p in Player}
    tree |= {"sampling": {"engine": "vllm"}, "judge": [{"kind": "keyword"}]}
    engine = publishing(recipes.resolve(tree), ALONE).engine
    assert (engine.model, engine.revision) == (NAME, OLD)
