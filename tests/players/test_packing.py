"""Siblings in one row learn what they learn in rows of their own, and layers may compute again."""

import copy
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sharing import network, rows, same_updates, told, weights
from tests.close import assert_close_sums
from tests.players.by_hand import PAD, furthest, same_bits
from tests.tiny import GEMMA

from sparring.players.fast.sharing import (
    PLAIN,
    SHARED,
    Path,
    abreast,
    packed_logprobs,
    packed_tokens,
    pair_cost,
    path_of,
    recompute,
)
from sparring.players.logprobs import causal, every_row, logprobs, microbatches, pad
from sparring.types import SparringError

WINDOW = {"sliding_window": 16}
MIXED = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
KINDS = {
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {}),
    "qwen2, some layers slide": (
        "qwen2",
        {**WINDOW, "use_sliding_window": True, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {}),
    "gemma3": ("gemma3_text", {**GEMMA.network, **WINDOW, **MIXED}),
    "mistral, all layers slide": ("mistral", {}),
    "mistral": ("mistral", {"sliding_window": None}),
}
"""Most rows are past the windows of 16."""
every_kind = pytest.mark.parametrize("kind", KINDS)
every_owner = pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
FREE, COSTLY = 0.0, 0.002
"""What attention costs: a whole group shares a row; two of a group do."""


def ours(model):
    assert recompute(model) == 3
    return model


def theirs(model):
    whole = causal(model)
    whole.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    return model


def kept(model):
    return model


def named(kind, **more):
    family, told = KINDS[kind]
    return network(family, **{**told, **more})


def whole_batch():
    return pad(rows(), range(len(rows())), PAD, "cpu")


def runs(model):
    """What the body of a model is given from here on."""
    seen = []
    causal(model).base_model.register_forward_pre_hook(
        lambda _, args, asked: seen.append(asked), with_kwargs=True
    )
    return seen


@pytest.mark.parametrize("again", [kept, pytest.param(ours, marks=pytest.mark.numeric), theirs])
@every_owner
@every_kind
def test_logprobs_and_gradient_are_those_of_whole_rows(kind, lora, again):
    family, more = KINDS[kind]
    own = weights(family, lora, **more)
    other = again(copy.deepcopy(own.model))
    whole_BT, whole = told(logprobs, own.model)
    logp_BT, gradient = told(partial(packed_logprobs, FREE), other)
    assert whole_BT.min() < -9, "the model has opinions"
    assert_close_sums(logp_BT, whole_BT)
    assert_close_sums(gradient, whole)


@pytest.mark.numeric
@every_kind
def test_a_group_may_be_cut_into_several_rows(kind):
    whole_BT, whole = told(logprobs, named(kind))
    model = ours(named(kind))
    seen = runs(model)
    logp_BT, gradient = told(partial(packed_logprobs, COSTLY), model)
    # Groups of 3, 1 and 4 in pairs; a reply's last token is predicted and never read.
    assert seen[-1]["input_ids"].shape == (2 + 1 + 2, 40 + 2 * 29)
    assert_close_sums(logp_BT, whole_BT)
    assert_close_sums(gradient, whole)


@pytest.mark.numeric
@pytest.mark.parametrize("kind", ["llama", "gemma2", "gemma3", "mistral, all layers slide"])
def test_eager_attention_is_given_a_mask_that_it_can_add(kind):
    eager = {"attn_implementation": "eager"}
    whole_BT, whole = told(logprobs, named(kind, **eager))
    logp_BT, gradient = told(partial(packed_logprobs, FREE), ours(named(kind, **eager)))
    assert_close_sums(logp_BT, whole_BT)
    assert_close_sums(gradient, whole)


@every_kind
def test_in_bfloat16_packing_is_as_near_to_the_truth_as_whole_rows_are(kind):
    truth_BT, truth = told(logprobs, named(kind))
    whole_BT, whole = told(logprobs, named(kind), torch.bfloat16)
    packed = partial(packed_logprobs, FREE)
    logp_BT, gradient = told(packed, ours(named(kind)), torch.bfloat16)
    off, off_whole = (logp_BT - truth_BT).abs().mean(), (whole_BT - truth_BT).abs().mean()
    assert off < 1.5 * off_whole
    assert furthest(gradient, truth) < 1.5 * furthest(whole, truth)


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_a_mask_is_one_bool_for_every_two_places_of_a_row(kind):
    model = named(kind)
    seen = runs(model)
    packed_logprobs(FREE, model, whole_batch(), 1.0)
    masks = seen[-1]["attention_mask"]
    for mask in masks.values() if isinstance(masks, dict) else [masks]:
        assert mask.dtype == torch.bool
        assert mask.shape == (3, 1, 40 + 4 * 29, 40 + 4 * 29)


@pytest.mark.numeric
def test_replies_of_one_token_need_their_prompt_alone():
    model = named("gemma2")
    some = [((3, 4, 5), (6,)), ((3, 4, 5), (7,)), ((8, 9), (10,))]
    batch = pad(some, range(3), PAD, "cpu")
    whole_BT = logprobs(model, batch, 1.0)
    seen = runs(model)
    logp_BT = packed_logprobs(FREE, model, batch, 1.0)
    assert seen[-1]["input_ids"].shape == (2, 3)
    assert_close_sums(logp_BT, whole_BT)


def test_rows_that_have_no_siblings_run_as_they_are():
    model = named("qwen2")
    batch = pad([((3, 4, 5), (6, 7)), ((8, 9), (10,))], range(2), PAD, "cpu")
    assert torch.equal(packed_logprobs(FREE, model, batch, 1.0), logprobs(model, batch, 1.0))


@pytest.mark.numeric
@pytest.mark.parametrize("beta", [0.0, 0.05])
def test_an_update_is_the_plain_ones_in_any_micro_batches(monkeypatch, beta):
    path = Path(partial(packed_tokens, FREE), partial(packed_logprobs, FREE))
    ways = ((PLAIN, 10_000), (path, 10_000), (path, 220), (path, 1))
    same_updates(monkeypatch, lambda family: ours(named(family)), ways, beta)


def test_the_same_update_twice_is_the_same_to_the_bit():
    one, other = (told(partial(packed_logprobs, FREE), ours(named("gemma2"))) for _ in range(2))
    assert torch.equal(one[0], other[0])
    assert same_bits(one[1], other[1])


def packs_siblings(path):
    return getattr(path.logprobs, "func", None) is packed_logprobs


@every_kind
def test_siblings_share_rows_where_layers_compute_again_and_only_there(kind):
    assert path_of(named(kind)) is SHARED
    for model in (ours(named(kind)), theirs(named(kind)), theirs(named(kind)).eval()):
        assert packs_siblings(path_of(model))


@pytest.mark.numeric
def test_an_adapters_layers_may_compute_again_too():
    own = weights("llama", lora=True)
    assert packs_siblings(path_of(ours(own.model)))
    whole_BT, whole = told(logprobs, own.model)
    own.model.zero_grad()
    logp_BT, gradient = told(path_of(own.model).logprobs, own.model)
    assert_close_sums(logp_BT, whole_BT)
    assert_close_sums(gradient, whole)
    assert all(gradient[n].abs().max() > 0 for n in own.parameters), "every layer learns"


def gpt2():
    return network("gpt2", attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0)


@pytest.mark.numeric
@pytest.mark.parametrize("again", [ours, theirs])
def test_a_family_that_nobody_looked_into_runs_whole_rows(again):
    assert path_of(again(gpt2())) is PLAIN
    _, wanted = told(logprobs, gpt2())
    _, gradient = told(path_of(again(gpt2())).logprobs, again(gpt2()))
    assert_close_sums(gradient, wanted)


def test_layers_that_look_ahead_and_kernels_without_masks_run_whole_rows():
    both_ways = ours(named("gemma3", use_bidirectional_attention=True))
    assert path_of(both_ways) is PLAIN
    flash = ours(named("mistral"))
    flash.config._attn_implementation_internal = "flash_attention_2"
    assert path_of(flash) is PLAIN


def test_siblings_that_would_see_each_other_are_refused():
    with pytest.raises(SparringError, match="gpt2: siblings cannot share a row"):
        packed_logprobs(FREE, gpt2(), whole_batch(), 1.0)


def test_as_many_share_a_row_as_pays_for_the_attention_between_them():
    # By hand, in tokens: a group of 8 in rows of n costs (8/n) S (1 + S/1152), S = prompt + 48 n.
    # Prompt 20: 576, 511, 502, 546 for n = 1, 2, 4, 8; prompt 300: 3625, 2129, 1404, 1090.
    pair = pair_cost(named("llama", hidden_size=192, num_hidden_layers=1))
    assert pair == pytest.approx(1 / 1152)
    assert [abreast(pair, (8, 8), prompt, 48) for prompt in (20, 300)] == [4, 8]
    assert abreast(pair, (8,), 20, 480) == 1, "long replies to a short prompt"
    eager = named("llama", hidden_size=192, num_hidden_layers=1, attn_implementation="eager")
    assert pair_cost(eager) == pytest.approx(1 / 384)
    assert abreast(pair_cost(eager), (8, 8), 20, 48) == 2


groups = st.lists(st.integers(1, 9), min_size=1, max_size=6)
lengths = st.integers(1, 60)
pairs = st.floats(0, 0.1)


@given(pairs, groups, lengths, lengths)
def test_packing_never_runs_more_than_whole_rows_do(pair, sizes, prompt, reply):
    many = abreast(pair, sizes, prompt, reply)
    cut = [min(many, size - at) for size in sizes for at in range(0, size, many)]
    assert sum(cut) == sum(sizes)
    run = packed_tokens(pair, sizes, prompt, reply)
    assert run == len(cut) * (prompt + many * reply)
    assert run <= every_row(sizes, prompt, reply)


@settings(deadline=None, max_examples=30)
@given(pairs, st.integers(1, 200))
def test_what_runs_is_what_was_reckoned_and_within_the_budget(pair, budget):
    model = named("llama", num_hidden_layers=1)
    path_of(model)
    seen = runs(model)
    for index in microbatches(rows(), budget, partial(packed_tokens, pair)):
        batch = pad(rows(), index, PAD, "cpu")
        with torch.no_grad():
            packed_logprobs(pair, model, batch, 1.0)
        sizes = torch.bincount(batch.owner_B).tolist()
        prompt, reply = batch.prompt_PL.shape[1], batch.target_BT.shape[1]
        reckoned = packed_tokens(pair, sizes, prompt, reply)
        many = abreast(pair, sizes, prompt, reply)
        places = prompt + many * (reply - (many > 1))  # a reply's last token is not run
        assert seen[-1]["input_ids"].shape == (reckoned // (prompt + many * reply), places)
        assert len(index) == 1 or reckoned <= budget
