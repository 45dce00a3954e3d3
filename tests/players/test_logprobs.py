"""Padding, micro-batches and computing logits in chunks change no log-probability."""

import random

import pytest
import torch
from tests.close import assert_close_sums
from tests.players.by_hand import PAD, VOCABULARY, alone, gradient_of, ids, network, tiny

from sparring.players import logprobs as players_logprobs
from sparring.players.logprobs import chosen_logprobs, logprobs, microbatches, pad
from sparring.players.trials import head_of

pytestmark = pytest.mark.numeric


def ragged(*sizes):
    rng = random.Random("rows")
    return [(ids(rng, prompt), ids(rng, reply)) for prompt, reply in sizes]


ROWS = ragged((3, 5), (8, 1), (1, 7), (6, 4))


def test_microbatches_are_filled_longest_first():
    # Rows of 8, 9, 8 and 10 tokens: two of at most 8 + 4 padded tokens fit in 24, not in 23.
    assert list(microbatches(ROWS, 24)) == [[3, 1], [0, 2]]
    assert list(microbatches(ROWS, 23)) == [[3], [1], [0, 2]]
    assert list(microbatches(ROWS, 60)) == [[3, 1, 0, 2]]


def test_prompts_end_and_completions_begin_in_one_column():
    rows = [((11, 12, 13), (21,)), ((14,), (22, 23))]
    batch = pad(rows, [1, 0], pad_id=9, device="cpu")
    assert batch.index == (1, 0)
    assert batch.prompt_PL.tolist() == [[9, 9, 14], [11, 12, 13]]
    assert batch.seen_PL.tolist() == [[0, 0, 1], [1, 1, 1]]
    assert batch.target_BT.tolist() == [[22, 23], [21, 9]]
    assert batch.mask_BT.tolist() == [[1.0, 1.0], [1.0, 0.0]]


@pytest.mark.parametrize("filler", [PAD, 17])
@pytest.mark.parametrize("temperature", [1.0, 0.6, 0.0])
def test_logprobs_of_a_padded_batch_are_those_of_each_row_alone(temperature, filler):
    model = tiny()
    logp_BT = logprobs(model, pad(ROWS, range(4), filler, "cpu"), temperature)
    for row, (prompt, reply) in enumerate(ROWS):
        expected = alone(model, prompt, reply, temperature or 1.0).tolist()
        assert_close_sums(logp_BT[row, : len(reply)].tolist(), expected)
        assert logp_BT[row, len(reply) :].tolist() == [0.0] * (7 - len(reply))


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


ROW, OTHER = ((3, 4, 5), (6, 7, 8, 9)), ((3, 4), (11, 12))


def small(kind, **more):
    return network(kind, 2, vocab_size=61, hidden_size=16, initializer_range=0.6, **more)


@pytest.mark.parametrize("piece", [1, 3 * 61, 10**6])
@pytest.mark.parametrize(
    ("kind", "more"), [("llama", {}), ("gemma2", {"final_logit_softcapping": 1.5})]
)
def test_a_piece_at_a_time_gives_the_same_numbers_and_gradients(kind, more, piece, monkeypatch):
    monkeypatch.setattr("sparring.players.logprobs.PIECE", piece)
    rows, whole, pieces = [ROW, OTHER], small(kind, **more), small(kind, **more)
    first, second = (alone(whole, *row, 0.8) for row in rows)
    (first.square().sum() - second.sum()).backward()
    logp_BT = logprobs(pieces, pad(rows, [0, 1], 0, "cpu"), 0.8)
    (logp_BT[0].square().sum() - logp_BT[1].sum()).backward()
    assert_close_sums(logp_BT[0].tolist(), first.tolist())
    assert_close_sums(logp_BT[1, :2].tolist(), second.tolist())
    assert_close_sums(gradient_of(pieces), gradient_of(whole))


def test_no_more_logits_exist_at_once_than_a_piece(monkeypatch):
    monkeypatch.setattr(players_logprobs, "PIECE", 7 * 61)
    hidden_ND = torch.randn(50, 16, requires_grad=True)
    weight_VD, batches = torch.randn(61, 16, requires_grad=True), []

    def head(hidden_ND):
        batches.append(len(hidden_ND))
        return hidden_ND @ weight_VD.T

    logp_N = chosen_logprobs(head, hidden_ND, torch.arange(50), 1.0)
    logp_N.sum().backward()
    assert max(batches) == 7
    assert sum(batches) >= 2 * 50, "for the gradient they are made again"


def test_a_family_that_scales_its_logits_computes_them_whole():
    model = small("cohere", logit_scale=0.25)
    assert head_of(model) is None
    logp_T = logprobs(model, pad([ROW], [0], 0, "cpu"), 0.8)[0].tolist()
    assert_close_sums(logp_T, alone(model, *ROW, 0.8).tolist())


def test_finding_out_which_kind_a_model_is_leaves_no_trace():
    model = tiny()
    before = torch.random.get_rng_state()
    assert head_of(model) is not None
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not model.model._forward_hooks
    assert all(p.grad is None for p in model.parameters())
