"""Other families than the sandbox's: absolute positions, sliding windows, soft caps, other heads.

Prompts are longer than every sliding window, and shorter ones are padded on the left beside them.
"""

from functools import partial

import pytest
import torch
import transformers
from tests.close import SPACINGS, assert_close_sums
from tests.players.lively import louder, one_by_one, policy, requests, words

from sparring.players.logprobs import logprobs, pad
from sparring.players.weights import Weights

pytestmark = pytest.mark.numeric

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 5,
}
WINDOW = {"sliding_window": 5}
MIXED = {**WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
FAMILIES = {
    "GPT2": {},
    "Llama": {"tie_word_embeddings": False},
    "Qwen2": {"tie_word_embeddings": True},
    "Qwen3": {"head_dim": 8},
    "Mistral": WINDOW,
    "Gemma2": {**MIXED, "head_dim": 8, "query_pre_attn_scalar": 8},
    "Gemma3Text": {**MIXED, "head_dim": 8, "query_pre_attn_scalar": 8},
}
# In float64 nothing but a wrong mask, position or cache can make a difference. Gemma 2's eager
# attention casts a float64 mask to float32, where it overflows.
DTYPES = {"Gemma2": torch.float32}
LIMIT = dict.fromkeys(FAMILIES, 8) | {"Gemma2": SPACINGS}
"""Spacings of float32, which all log-probabilities are."""
every_family = pytest.mark.parametrize("family", FAMILIES)


def tiny(family):
    config = getattr(transformers, f"{family}Config")
    kind = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
    model = getattr(transformers, f"{family.removesuffix('Text')}{kind}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        made = model(config(vocab_size=len(words()), **SMALL, **FAMILIES[family]))
    return louder(made, matrices=12.0, embeddings=10.0).to(DTYPES.get(family, torch.float64))


speaking = partial(policy, temperature=0.9)


def alone(model, prompt, reply):
    """Log-probabilities [T] from one row without padding, mask, positions or cache."""
    logits_TV = model(torch.tensor([[*prompt, *reply]]), use_cache=False).logits[0]
    logp_TV = (logits_TV[len(prompt) - 1 : -1].float() / 0.9).log_softmax(-1)
    return logp_TV[range(len(reply)), list(reply)]


def said(speaks):
    told = [completion for row in speaks.sample(requests()) for completion in row]
    assert len({len(c.token_ids) for c in told}) >= 3
    assert len({len(c.prompt_ids) for c in told}) >= 4
    assert max(len(c.prompt_ids) for c in told) > 3 * WINDOW["sliding_window"]
    return told


@every_family
def test_a_batch_of_one_equals_one_of_a_batch(family):
    speaks = speaking(tiny(family))
    single = [completion for row in one_by_one(speaks, requests()) for completion in row]
    for one, other in zip(said(speaks), single, strict=True):
        assert one.token_ids == other.token_ids
        assert_close_sums(one.logprobs, other.logprobs, limit=LIMIT[family])


@every_family
def test_sampled_logprobs_are_what_the_learner_and_a_bare_forward_recompute(family):
    speaks = speaking(tiny(family))
    told = said(speaks)
    rows = [(c.prompt_ids, c.token_ids) for c in told]
    batch = pad(rows, range(len(rows)), speaks.chat.pad_id, "cpu")
    with torch.no_grad():
        logp_BT = logprobs(speaks.weights.model, batch, 0.9)
        for row, completion in enumerate(told):
            learned = logp_BT[row, : len(completion.token_ids)].tolist()
            bare = alone(speaks.weights.model, completion.prompt_ids, completion.token_ids)
            assert_close_sums(learned, completion.logprobs, limit=LIMIT[family])
            assert_close_sums(bare.tolist(), completion.logprobs, limit=LIMIT[family])


@every_family
def test_the_gradient_of_a_padded_batch_is_that_of_its_rows(family):
    # After sampling: what inference mode left in the model must not stop a gradient.
    speaks = speaking(tiny(family))
    told = said(speaks)
    model, rows = speaks.weights.model, [(c.prompt_ids, c.token_ids) for c in told]
    logprobs(model, pad(rows, range(len(rows)), 0, "cpu"), 0.9).sum().backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    for row in rows:
        alone(model, *row).sum().backward()
    alone_ = {name: p.grad for name, p in model.named_parameters()}
    assert_close_sums(together, alone_, dtype=torch.float32)  # log-probabilities are


@every_family
def test_a_saved_model_reads_back(family, tmp_path):
    model = tiny(family)
    Weights(model).save(tmp_path)
    other = tiny(family)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(0.5)
    again = Weights(other)
    again.read(tmp_path)
    ids = torch.tensor([[3, 100, 200, 5, 4]])
    with torch.no_grad():
        assert torch.equal(again.model(ids).logits, model(ids).logits)
