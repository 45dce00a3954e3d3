"""Padding and cutting into micro-batches change no number."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.close import assert_close_sums
from tests.players.by_hand import PAD, VOCABULARY, alone, gradient_of, ids, tiny

from sparring.players.logprobs import logprobs, microbatches, pad

pytestmark = pytest.mark.numeric


def ragged(*sizes):
    rng = random.Random("rows")
    return [(ids(rng, prompt), ids(rng, reply)) for prompt, reply in sizes]


ROWS = ragged((3, 5), (8, 1), (1, 7), (6, 4))

sizes = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=12)


@settings(deadline=None)
@given(sizes, st.integers(1, 80))
def test_every_row_is_in_one_microbatch_within_the_budget(told, budget):
    rows = ragged(*told)
    chunks = list(microbatches(rows, budget))
    assert sorted(i for chunk in chunks for i in chunk) == list(range(len(rows)))
    for chunk in chunks:
        wide = max(told[i][0] for i in chunk) + max(told[i][1] for i in chunk)
        assert len(chunk) == 1 or len(chunk) * wide <= budget


def test_microbatches_are_filled_longest_first():
    # Rows of 8, 9, 8 and 10 tokens: two of at most 8 + 4 padded tokens fit in 24, not in 23.
    assert list(microbatches(ROWS, 24)) == [[3, 1], [0, 2]]
    assert list(microbatches(ROWS, 23)) == [[3], [1], [0, 2]]
    assert list(microbatches(ROWS, 60)) == [[3, 1, 0, 2]]


def test_prompts_end_and_completions_begin_in_one_column():
    rows = [((11, 12, 13), (21,)), ((14,), (22, 23))]
    batch = pad(rows, [1, 0], pad_id=9, device="cpu")
    assert batch.index == (1, 0)
    assert batch.ids_BS.tolist() == [[9, 9, 14, 22, 23], [11, 12, 13, 21, 9]]
    assert batch.attention_BS.tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert batch.target_BT.tolist() == [[22, 23], [21, 9]]
    assert batch.mask_BT.tolist() == [[1.0, 1.0], [1.0, 0.0]]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_of_a_padded_batch_are_those_of_each_row_alone(temperature):
    model = tiny()
    logp_BT = logprobs(model, pad(ROWS, range(4), PAD, "cpu"), temperature)
    for row, (prompt, reply) in enumerate(ROWS):
        wanted = alone(model, prompt, reply, temperature).tolist()
        assert_close_sums(logp_BT[row, : len(reply)].tolist(), wanted)
        assert logp_BT[row, len(reply) :].tolist() == [0.0] * (7 - len(reply))


def test_logprobs_at_temperature_0_are_those_of_the_model():
    model, batch = tiny(), pad(ROWS, [2], PAD, "cpu")
    assert torch.equal(logprobs(model, batch, 0.0), logprobs(model, batch, 1.0))


def test_which_token_fills_the_padding_changes_nothing():
    told = []
    for filler in (PAD, 17):
        model = tiny()
        logp_BT = logprobs(model, pad(ROWS, range(4), filler, "cpu"), 1.0)
        logp_BT.sum().backward()
        told.append((logp_BT, gradient_of(model)))
    (logp_BT, one), (other_BT, other) = told
    assert torch.equal(logp_BT, other_BT)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_pad_token_gets_exactly_no_gradient():
    model = tiny()
    model.config.pad_token_id = model.model.embed_tokens.padding_idx = None
    used = {token for prompt, reply in ROWS for token in (*prompt, *reply)}
    spare = next(token for token in range(VOCABULARY) if token not in used)
    logprobs(model, pad(ROWS, range(4), spare, "cpu"), 1.0).sum().backward()
    grad_V = model.model.embed_tokens.weight.grad.abs().sum(1)
    assert grad_V[spare].item() == 0.0
    # The last token of a row is predicted but read by no later one.
    read = {token for prompt, reply in ROWS for token in (*prompt, *reply)[:-1]}
    assert (grad_V[sorted(read)] > 0).all()
