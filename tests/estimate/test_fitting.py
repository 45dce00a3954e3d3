"""A run takes micro-batches that fit the memory there is, keeps them, or says what would fit."""

import shutil

import pytest
from tests.tiny import QWEN2, save_model, write_seeds
from transformers import AutoModelForCausalLM, GPTJConfig

from sparring.estimate.estimate import MOST_TOKENS, memory
from sparring.estimate.fitting import micro_batch_that_fits
from sparring.estimate.shape import shape_of
from sparring.players.loading import load_model
from sparring.runs import recipes
from sparring.runs.build import build
from sparring.runs.train import train
from sparring.types import Player, UsageError

SIZE = "learner.optimizer.micro_batch_tokens"


@pytest.fixture
def words(tmp_path):
    """A run on a tiny model with full weights, of one short round."""
    model = save_model(tmp_path / "model", QWEN2)
    names = [f"{player}.model_name_or_path={model}" for player in ("attacker", "defender")]
    seeds = write_seeds(tmp_path / "seeds.csv")
    short = ("weights=shared", "rounds=1", "sampling.max_completion_length=4", "warm_up.steps=0")
    rules = ("judge.kind=keyword", "game.gate=false", "game.helpfulness=0", "exam.crossplay=0")
    sizes = ("learner.seeds_per_round=2", "learner.num_generations=2", "exam.n=1")
    place = (f"output_dir={tmp_path / 'run'}", f"data.train=[{{path: {seeds}}}]")
    return [*names, *short, *rules, *sizes, *place, "exam.holdout=0.5"]


def configured(words, *more):
    return recipes.configured("magic", [*words, *more])


def peak(config, tokens):
    """Bytes of memory that must be free for micro-batches of that size."""
    shape = shape_of(config.defender.model_name_or_path)
    return memory(shape, config, tokens).peak / 0.9 * 1.001


def test_micro_batches_follow_the_memory_and_stay_what_they_were(words, monkeypatch):
    config = configured(words, "sampling.batch_tokens=64")
    room = peak(config, 4096) * 0.9  # half of the memory is filled where there is no GPU
    monkeypatch.setattr("sparring.runs.models.free_memory", lambda: room / 0.5)
    run = build(config)
    assert run.config.learner.optimizer.micro_batch_tokens == 4096
    assert run.trainers["defender"].grpo.config.micro_batch_tokens == 4096
    assert any(f"{SIZE} is 4,096" in note for note in run.notes)
    folder = train(run)
    monkeypatch.undo()
    resumed = recipes.check_resumable(folder, config)
    assert resumed.learner.optimizer.micro_batch_tokens == 4096
    plenty = build(configured(words, f"output_dir={folder.folder}-2"))
    assert plenty.config.learner.optimizer.micro_batch_tokens == MOST_TOKENS
    assert not any(SIZE in note for note in plenty.notes)


AGAIN, FEW = "learner.optimizer.gradient_checkpointing=true", "sampling.batch_tokens=64"


@pytest.mark.parametrize(
    ("more", "cures"),
    [
        ((FEW,), (AGAIN,)),
        ((FEW, f"{SIZE}=16384"), (AGAIN, f"{SIZE}=null")),
        (("sampling.batch_tokens=1000000",), (AGAIN, "sampling.batch_tokens=8192")),
    ],
)
def test_what_cannot_fit_is_refused_with_settings_that_do(words, monkeypatch, more, cures):
    room = peak(configured(words, *more, *cures), 1024)
    monkeypatch.setattr("sparring.runs.models.free_memory", lambda: room)
    with pytest.raises(UsageError, match=r"memory: this run needs .* GiB can be filled") as error:
        build(configured(words, *more))
    assert str(error.value).endswith(f"it fits with {' '.join(cures)}")
    assert build(configured(words, *more, *cures)).config.learner.optimizer.gradient_checkpointing


def test_what_fits_in_no_way_is_refused(words, monkeypatch):
    monkeypatch.setattr("sparring.runs.models.free_memory", lambda: 1e4)
    with pytest.raises(UsageError, match="it needs a smaller model or a larger machine"):
        build(configured(words))


def test_a_family_that_cannot_be_counted_is_said_and_gets_the_size_that_is_set(words):
    """GPT-J knows no attention but its own, so none that counts."""
    gptj = GPTJConfig(n_embd=32, n_layer=1, n_head=2, rotary_dim=4, vocab_size=90)
    for more, size in (((), MOST_TOKENS), ((f"{SIZE}=512",), 512)):
        tokens, note = micro_batch_that_fits(configured(words, *more), gptj, [1.0], 1)
        assert tokens == size
        assert note.startswith(f"{SIZE} is {size:,}, whatever memory there is: gptj models cannot")


def test_bfloat16_weights_play_in_what_this_processor_is_faster_in_for_the_whole_run(
    words, tmp_path, monkeypatch
):
    narrow = tmp_path / "narrow"
    shutil.copytree(configured(words).defender.model_name_or_path, narrow)
    AutoModelForCausalLM.from_pretrained(narrow, dtype="bfloat16").save_pretrained(narrow)
    config = configured(words, *(f"{player}.model_name_or_path={narrow}" for player in Player))
    monkeypatch.setattr("sparring.runs.models.quicker_dtype", lambda: "float32")
    run = build(config)
    assert {str(p.dtype) for p in run.trainers["defender"].weights.model.parameters()} == {
        "torch.float32"
    }
    assert any("played in float32, because that is faster" in note for note in run.notes)
    folder = train(run)
    monkeypatch.setattr("sparring.runs.models.quicker_dtype", lambda: "bfloat16")
    resumed = build(recipes.check_resumable(folder, config))
    assert [resumed.config.player(player).dtype for player in Player] == ["float32"] * 2
    asked = build(configured(words, f"output_dir={tmp_path / 'other'}", *_set(narrow, "bfloat16")))
    assert asked.config.defender.dtype == "bfloat16"
    assert not any("faster on this processor" in note for note in asked.notes)
    wide = build(configured(words, f"output_dir={tmp_path / 'wide'}"))
    assert wide.config.defender.dtype == "auto"  # float32 weights are never narrowed


@pytest.mark.parametrize(
    ("stored", "quicker", "dtype", "played"),
    [
        ("bfloat16", "float32", "auto", "float32"),
        ("bfloat16", "bfloat16", "auto", "bfloat16"),
        ("bfloat16", None, "auto", "bfloat16"),  # as on a machine with a GPU
        ("bfloat16", "float32", "bfloat16", "bfloat16"),
        ("float32", "bfloat16", "auto", "float32"),
    ],
)
def test_judges_writers_and_models_under_test_load_in_what_is_quicker(
    tmp_path, monkeypatch, stored, quicker, dtype, played
):
    folder = save_model(tmp_path, QWEN2)
    AutoModelForCausalLM.from_pretrained(folder, dtype=stored).save_pretrained(folder)
    monkeypatch.setattr("sparring.players.loading.quicker_dtype", lambda: quicker)
    assert str(load_model(str(folder), dtype).dtype) == f"torch.{played}"


def _set(folder, dtype):
    return [
        f"{player}.{name}={value}"
        for player in Player
        for name, value in {"model_name_or_path": folder, "dtype": dtype}.items()
    ]
