"""Log-probabilities made a piece at a time are those of all the logits."""

import pytest
import torch
from tests.close import assert_close_sums
from tests.players.by_hand import gradient_of, tiny
from transformers import AutoConfig, AutoModelForCausalLM

from sparring.players.logprobs import chosen_logprobs, head_of, logprobs, pad

pytestmark = pytest.mark.numeric

ROW, OTHER = ((3, 4, 5), (6, 7, 8, 9)), ((3, 4), (11, 12))


def small(kind, **more):
    config = AutoConfig.for_model(
        kind,
        vocab_size=61,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        initializer_range=0.6,
        **more,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return AutoModelForCausalLM.from_config(config).eval()


def bare(model, prompt, reply, temperature):
    """From the model's own logits, as its authors compute them."""
    logits_TV = model(torch.tensor([[*prompt, *reply]])).logits[0, len(prompt) - 1 : -1]
    return (logits_TV / temperature).log_softmax(-1)[range(len(reply)), list(reply)]


@pytest.mark.parametrize("piece", [1, 3 * 61, 10**6])
@pytest.mark.parametrize(
    ("kind", "more"), [("llama", {}), ("gemma2", {"final_logit_softcapping": 1.5})]
)
def test_a_piece_at_a_time_gives_the_same_numbers_and_gradients(kind, more, piece, monkeypatch):
    monkeypatch.setattr("sparring.players.logprobs.PIECE", piece)
    rows = [ROW, OTHER]
    one, other = small(kind, **more), small(kind, **more)
    wanted = [bare(one, *row, 0.8) for row in rows]
    (wanted[0].square().sum() - wanted[1].sum()).backward()
    logp_BT = logprobs(other, pad(rows, [0, 1], 0, "cpu"), 0.8)
    (logp_BT[0].square().sum() - logp_BT[1].sum()).backward()
    assert_close_sums(logp_BT[0].tolist(), wanted[0].tolist())
    assert_close_sums(logp_BT[1, :2].tolist(), wanted[1].tolist())
    assert_close_sums(gradient_of(other), gradient_of(one))


def test_no_more_logits_exist_at_once_than_a_piece():
    hidden_ND = torch.randn(50, 16, requires_grad=True)
    weight_VD, made = torch.randn(61, 16, requires_grad=True), []

    def head(hidden_ND):
        made.append(len(hidden_ND))
        return hidden_ND @ weight_VD.T

    logp_N = chosen_logprobs(head, hidden_ND, torch.arange(50), 1.0, piece=7 * 61)
    logp_N.sum().backward()
    assert max(made) == 7
    assert sum(made) >= 2 * 50, "for the gradient they are made again"


def test_gemmas_cap_is_honoured():
    rows, capped = [ROW], small("gemma2", final_logit_softcapping=1.5)
    free = small("gemma2", final_logit_softcapping=None)
    one, other = (logprobs(m, pad(rows, [0], 0, "cpu"), 1.0) for m in (capped, free))
    assert (one - other).abs().max() > 0.5
    assert one.min() > -torch.tensor(61.0).log() - 3.0, "capped logits lie 3 apart at most"


def test_a_family_that_scales_its_logits_is_asked_for_them_whole():
    model = small("cohere", logit_scale=0.25)
    assert head_of(model) is None
    told = logprobs(model, pad([ROW], [0], 0, "cpu"), 0.8)[0].tolist()
    assert_close_sums(told, bare(model, *ROW, 0.8).tolist())


def test_which_family_it_is_is_found_out_without_a_trace():
    model = tiny()
    before = torch.random.get_rng_state()
    assert head_of(model) is not None
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not model.model._forward_hooks
    assert all(p.grad is None for p in model.parameters())
