"""Weights that are held, saved and read are the same weights, to the bit."""

import copy

import pytest
import torch
from tests.players.lively import lively, logits, louder, same_bits, train, words
from transformers import AutoModelForCausalLM

from sparring.players.loading import load_model, load_tokenizer, stop_ids
from sparring.players.weights import Weights
from sparring.sandbox.model import untrained
from sparring.types import UsageError


def lacking(tensors):
    return dict(list(tensors.items())[1:])


def crowded(tensors):
    return {**tensors, "one.too.many": torch.ones(3)}


def misshapen(tensors):
    """One row where there should be many: it would broadcast without a word."""
    name = list(tensors)[-2]
    return {**tensors, name: tensors[name][:1]}


@pytest.mark.parametrize("spoil", [lacking, crowded, misshapen])
def test_weights_that_do_not_fit_are_refused_before_anything_changes(spoil):
    weights = Weights(lively(3))
    before, other = weights.snapshot(), spoil(Weights(lively(4)).snapshot())
    with pytest.raises(ValueError, match="differ"):
        weights.load(other)
    with pytest.raises(ValueError, match="differ"), weights.holding(other):
        pass
    assert same_bits(weights.snapshot(), before)


def test_transformers_loads_a_whole_model_that_was_saved(tmp_path):
    weights = train(Weights(lively()))
    weights.save(tmp_path / "defender")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "defender").eval()
    assert torch.equal(logits(loaded), logits(weights.model))
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    again = Weights(lively(4))
    again.read(tmp_path / "defender")
    assert same_bits(again.snapshot(), weights.snapshot())
    assert torch.equal(logits(again.model), logits(weights.model))


def test_a_model_saved_in_shards_reads_back_whole(tmp_path):
    weights = Weights(lively())
    weights.model.save_pretrained(tmp_path / "sharded", max_shard_size="300KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 3
    again = Weights(lively(4))
    again.read(tmp_path / "sharded")
    assert same_bits(again.snapshot(), weights.snapshot())


def test_a_saved_model_is_loaded_as_one_plays_with_it(tmp_path):
    model = louder(untrained(len(words()), 3))
    Weights(model).save(tmp_path)
    words().save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path))
    assert not loaded.training
    assert torch.equal(logits(loaded), logits(model))
    assert stop_ids(loaded) == [5]
    told = load_tokenizer(str(tmp_path))("open the dragon vault").input_ids
    assert told == words()("open the dragon vault").input_ids
    assert len(told) == 4


def test_a_folder_that_holds_no_model_is_a_usage_error(tmp_path):
    for load in (load_model, load_tokenizer):
        with pytest.raises(UsageError, match=r"wanted a folder with config\.json"):
            load(str(tmp_path / "nowhere"))


def test_holding_other_weights_nests_and_ends_to_the_bit_even_when_it_fails(tmp_path):
    weights = Weights(lively(3))
    first, second, third = (Weights(lively(seed)).snapshot() for seed in (3, 4, 5))
    copies = copy.deepcopy((first, second))
    Weights(lively(5)).save(tmp_path)

    def fail_while_held():
        with weights.holding(second):
            assert same_bits(weights.snapshot(), second)
            with weights.holding(tmp_path):
                assert same_bits(weights.snapshot(), third)
                train(weights)
            assert same_bits(weights.snapshot(), second)
            train(weights)
            raise RuntimeError("the dragon woke")

    with pytest.raises(RuntimeError, match="the dragon woke"):
        fail_while_held()
    assert same_bits(weights.snapshot(), first)
    train(weights)
    assert all(same_bits(*pair) for pair in zip((first, second), copies, strict=True))
