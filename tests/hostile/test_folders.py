"""A run's or a model's folder that somebody else made leads nobody out of it, and is bounded."""

import fcntl
import gzip
import json
import os
import re
import shutil
import signal
from importlib.resources import files
from pathlib import Path

import pytest
from tests import short_run
from tests.command import sparring_command
from tests.report.written import Written, flip
from tests.short_run import At, Each
from tests.store.results import results_of

from sparring.evals.crossplay import items
from sparring.players.loading import base_revision, load_model, load_tokenizer
from sparring.sandbox.model import SHIPPED
from sparring.store.checkpoints import Checkpoints
from sparring.store.folder import RunDir, read_games
from sparring.types import CorruptError, Round, SparringError, Turn, UsageError

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def run(tmp_path):
    """A run that nobody played, and beside it a file and a folder that are not its own."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "keys.txt").write_text("the key to the dragon vault")
    run = Written(rounds=10).at(tmp_path / "run")
    for name in ("checkpoints", "report/figures"):
        (run / name).mkdir(parents=True)
    return run


def link(path: Path) -> None:
    outside = path.parents[[p.name for p in path.parents].index("run")].parent / "outside"
    path.symlink_to(outside if path.suffix == "" and path.name != "LOCK" else outside / "keys.txt")


PLACES = {
    "config.yaml": ["runs", "show"],
    "run.json": ["runs", "show"],
    "rounds.jsonl": ["runs", "tail"],
    "checkpoints": ["runs", "show"],
    "checkpoints/latest": ["runs", "show"],
    "exams": ["report"],
    "exams/round_000010/results.json": ["report"],
    "exams/round_000010/samples.jsonl.gz": ["report"],
    "exams/crossplay": ["report"],
    "transcripts": ["report"],
    "transcripts/round_000019.jsonl.gz": ["report"],
    "seals.jsonl": ["report"],
    "report": ["report"],
    "report/figures": ["report"],
    "evidence": ["bound"],
    "evidence/bound.json": ["bound"],
}
"""What may stand in a run's folder, and a verb that reads it, or writes there."""


@pytest.mark.parametrize("put", [link, os.mkfifo], ids=["link", "pipe"])
@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_read_or_written_but_what_lies_in_the_run(run, place, put):
    path = run / place
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    put(path)
    before = short_run.contents(run.parent / "outside")
    ended = sparring_command(*PLACES[place], run)
    assert ended.code in (1, 2), ended
    assert str(path) in ended.text
    assert "dragon vault" not in ended.text
    assert short_run.contents(run.parent / "outside") == before


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("run/export", ["export", "--role", "defender"]),
        ("crossplay", ["crossplay", "--n", "2"]),
        ("attackers", ["exploit", "--steps", "1"]),
        ("run/evidence", ["exploit", "--steps", "1"]),
    ],
)
def test_whoever_plays_on_writes_through_no_link(tmp_path, place, words):
    run, outside = short_run.copy_of_whole(tmp_path), tmp_path / "outside"
    outside.mkdir()
    (tmp_path / place).symlink_to(outside)
    ended = sparring_command(*words, run)
    assert (ended.code, f"{tmp_path / place}: is a link" in ended.text) == (2, True), ended
    assert not list(outside.iterdir())


def test_a_temporary_name_is_not_foreseen_and_what_a_killed_writer_left_goes(run):
    """A writer that is alive holds a lock on what it writes."""
    sparring_command("report", run)
    figure = next((run / "report" / "figures").iterdir())
    for path in (figure, run / "report" / "index.html"):
        left, held = (path.with_name(f"{path.name}.tmp-{n}") for n in (7, 8))
        for temporary in (left, held):
            temporary.write_text("half a file")
        with held.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert sparring_command("report", run).code == 0
        assert (left.exists(), held.exists()) == (False, True)


INDEX = {
    "a pickle": "model-1.bin",
    "above": "../outside/model.safetensors",
    "anywhere": "/outside/model.safetensors",
    "below": "below/model.safetensors",
    "no name": 3,
}


@pytest.fixture
def model(tmp_path):
    return Path(shutil.copytree(SHIPPED, tmp_path / "model"))


@pytest.mark.parametrize("name", INDEX.values(), ids=INDEX)
def test_an_index_names_only_safetensors_beside_it(model, name):
    index = model / "model.safetensors.index.json"
    (model / "model.safetensors").rename(model / "model-1.safetensors")
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"a": name}}))
    with pytest.raises(UsageError, match=r"model\.safetensors\.index\.json: .* weight_map\.a"):
        load_model(str(model))


MODEL_FILES = {
    "a link": ("tokenizer_config.json", lambda path: path.symlink_to("/etc/hostname")),
    "a pipe": ("chat_template.jinja", os.mkfifo),
    "deep": ("generation_config.json", lambda path: path.write_text("[" * 100_000)),
    "cut": ("tokenizer.json", lambda path: path.write_text('{"model": ')),
}


@pytest.mark.parametrize(("name", "put"), MODEL_FILES.values(), ids=MODEL_FILES)
@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_models_files_are_regular_ones_and_json_of_a_bounded_depth(model, name, put, load):
    (model / name).unlink(missing_ok=True)
    put(model / name)
    with pytest.raises(UsageError, match=rf"cannot load .*{re.escape(name)}"):
        load(str(model))


@pytest.mark.parametrize("put", [lambda path: path.symlink_to("/etc/hostname"), os.mkfifo])
@pytest.mark.parametrize("name", ["judge.json", "judge.safetensors"])
def test_a_linear_judges_files_are_regular_ones_inside_its_folder(tmp_path, name, put):
    folder = shutil.copytree(str(files("sparring.judges") / "shipped/words"), tmp_path / "judge")
    (folder / name).unlink()
    put(folder / name)
    (tmp_path / "judge.yaml").write_text(f"judge: {{kind: linear, model: {folder}}}")
    ended = sparring_command("judge", "probe", tmp_path / "judge.yaml")
    assert (ended.code, f"{folder / name}: is a" in ended.text) == (2, True), ended


def test_a_commit_in_the_hubs_cache_is_links_into_its_blobs(model, tmp_path):
    snapshot, blobs = tmp_path / "hub" / "snapshots" / "0a1b", tmp_path / "hub" / "blobs"
    snapshot.mkdir(parents=True)
    model.rename(blobs)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(path)
    assert load_tokenizer(str(snapshot)).chat_template
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(tmp_path / "hub" / "config.json")
    shutil.copy(blobs / "config.json", tmp_path / "hub" / "config.json")
    with pytest.raises(UsageError, match="is a link"):
        load_tokenizer(str(snapshot))


LORA = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "target_modules": ["q_proj"]}
FOLLOWED = {
    "another type": {"peft_type": "XLORA", "adapters": {"a": "/outside"}},
    "a tensor file": {"peft_type": "PROMPT_TUNING", "prompt_tuning_init_state_dict_path": "/x"},
    "a type nobody knows": {"peft_type": ["LORA"]},
    "a module to import": {"megatron_config": {"a": 1}, "megatron_core": "antigravity"},
    "a cache": {"corda_config": {"cache_file": "/outside/cache.pt"}},
    "adapters of others": {"arrow_config": {"task_adapter_names": ["a"]}},
    "an option of next year": {"init_from": "/outside"},
    "a pattern that takes for ever": {"target_modules": "(a+)+$"},
    "a pattern that takes a day": {"target_modules": ".*.*.*.*.*x"},
    "a pattern of ranks": {"rank_pattern": {"(a+)+$": 2}},
    "a pattern of layers": {"layers_to_transform": [0], "layers_pattern": ["(a|b)*c"]},
    "all the memory": {"r": 10**9},
    "all the memory of a layer": {"rank_pattern": {"q_proj": 10**9}},
}


@pytest.mark.parametrize("more", FOLLOWED.values(), ids=FOLLOWED)
def test_an_adapter_leads_to_no_other_file_module_or_endless_work(tmp_path, more):
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({**LORA, "megatron_core": "megatron.core", "use_dora": True}))
    assert base_revision(tmp_path, "base") is None
    config.write_text(json.dumps(LORA | more))
    with pytest.raises(UsageError, match=r"adapter_config\.json: is not what was written"):
        base_revision(tmp_path, "base")


def test_a_model_that_holds_an_adapter_is_no_model(model):
    (model / "adapter_config.json").write_text(json.dumps(LORA))
    with pytest.raises(UsageError, match="holds an adapter"):
        load_model(str(model))


def test_games_that_unpack_to_more_than_they_may_are_refused_before_they_fill_the_memory(tmp_path):
    path = tmp_path / "samples.jsonl.gz"
    game = json.dumps({"seed": {}, "text": "a" * 10**6}).encode() + b"\n"
    path.write_bytes(gzip.compress(game * 200))
    with pytest.raises(CorruptError, match=r"samples\.jsonl\.gz"):
        list(read_games(path))
    row = {"seed": {"text": "x", "harmful": True, "id": "x"}, "dealt": 0, "moves": []}
    path.write_bytes(gzip.compress((json.dumps(row | {"more": "a" * 10**6}) + "\n").encode() * 200))
    with pytest.raises(CorruptError, match="it unpacks to more than"):
        list(read_games(path))


SHAPES = ["null", "3", "[]", '"x"', "NaN", "1e999", "9" * 5000, "[" * 100_000]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape[:5])
@pytest.mark.parametrize("field", ["seed", "dealt", "moves", "verdict", "returns", "verdict.score"])
def test_a_game_of_another_shape_is_refused_by_name_or_read_and_never_a_trace(run, field, shape):
    path = run / "exams" / "round_000010" / "samples.jsonl.gz"
    rows = gzip.decompress(path.read_bytes()).splitlines()
    game = json.loads(rows[0])
    outer, _, inner = field.partition(".")
    game[outer] = {**game[outer], inner: "@"} if inner else "@"
    path.write_bytes(gzip.compress(json.dumps(game).replace('"@"', shape).encode() + b"\n"))
    try:
        items(RunDir(run), 10)
    except SparringError as error:
        refused = str(error)
    else:
        refused = ""  # taken as it is
    assert not refused or path.name in refused


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("exams/round_000004/results.json", ["report"]),
        ("exams/round_000004/samples.jsonl.gz", ["bound"]),
        ("exams/crossplay/results.json", ["report"]),
        ("checkpoints/round_000004/defender/model.safetensors", ["crossplay", "--n", "2"]),
        ("checkpoints/round_000004/attacker/config.json", ["exploit", "--steps", "1"]),
    ],
)
def test_a_flipped_byte_is_refused_by_whatever_reads_it(tmp_path, name, words):
    run = short_run.copy_of_whole(tmp_path)
    flip(run / name)
    ended = sparring_command(*words, run)
    assert ended.code == 1, ended
    assert str(run / name) in ended.text


def test_a_checkpoint_whose_byte_was_flipped_is_not_evaluated(tmp_path):
    defender = short_run.copy_of_whole(tmp_path) / "checkpoints" / "round_000004" / "defender"
    flip(defender / "tokenizer_config.json")
    ended = sparring_command("eval", defender, "--tasks", "sandbox", "--limit", "1")
    assert (ended.code, "tokenizer_config.json: does not match" in ended.text) == (2, True)


def test_a_measurement_that_was_replaced_by_a_valid_one_is_refused_and_an_old_run_is_read(tmp_path):
    run = RunDir(tmp_path)
    for _ in range(2):  # written again, it is the same
        run.write_exam(results_of(0))
    sealed = (tmp_path / "seals.jsonl").read_bytes()
    assert run.exam(0)
    results_of(0, {}).model_copy(update={"success": "forged"}).write(
        tmp_path / "exams" / Checkpoints.name(0) / "results.json"
    )
    with pytest.raises(CorruptError, match=r"results\.json: does not match what was written"):
        RunDir(tmp_path).exam(0)
    assert sealed.count(b"\n") == 1
    (tmp_path / "seals.jsonl").unlink()
    assert RunDir(tmp_path).exam(0).success == "forged", "an older version sealed nothing"


def test_what_a_checkpoint_rests_on_is_sealed_without_reading_all_rounds_again(
    tmp_path, monkeypatch
):
    run, turn = RunDir(tmp_path), Turn(frozenset(), {})
    seals = []
    for number in range(4):
        run.append(Round(number, turn, (), {"asr": number / 7}, {"play": number + 0.5}))
        with monkeypatch.context() as patch:
            patch.setattr(RunDir, "each_round", lambda self: pytest.fail("read again"))
            seals.append(run.seals(number + 1))
    assert [RunDir(tmp_path).seals(number + 1) for number in range(4)] == seals
    assert len({*map(str, seals)}) == 4


def hurry() -> None:
    """Give loops one second to act on a signal."""
    from sparring.runs import train

    train.GRACE = 1


SLOW = {
    "the first exam": (r"open seals.jsonl", ("exam.n=300",)),
    "the last cross-play": (r"rename exams/round_000001/results.json", ("exam.crossplay=2",)),
}


@pytest.mark.parametrize(("operation", "settings"), SLOW.values(), ids=SLOW)
def test_a_signal_ends_work_that_looks_for_none_and_the_run_goes_on(tmp_path, operation, settings):
    run = tmp_path / "run"
    words = ("rounds=1", "schedule.every=1", "exam.n=40", *settings)
    hooks = Each((hurry, At(run, operation, 1, signal.SIGTERM)))
    ended = short_run.train(run, *words, before=hooks)
    assert (ended.code, "--resume goes on" in ended.err) == (143, True), ended
    assert RunDir(run).status.status == "interrupted"
