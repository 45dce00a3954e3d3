"""A prompt run once for its group teaches what running it for every row would have taught."""

import copy
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.close import assert_close_sums
from tests.players.by_hand import PAD, Recorder, furthest, gradient_of, moved, same_bits
from tests.tiny import FAMILIES, MISTRAL
from transformers import AutoConfig, AutoModelForCausalLM

from sparring.players.fast import decoding
from sparring.players.fast.sharing import PLAIN, SHARED, once, path_of, shared_logprobs
from sparring.players.grpo import Grpo, GrpoConfig
from sparring.players.logprobs import causal, every_row, logprobs, microbatches, pad
from sparring.players.weights import LearningRate, Weights, adapters
from sparring.types import Completion, Player, Sample, SparringError

pytestmark = pytest.mark.numeric

VOCABULARY = 97
SIZES = {40: (5, 9, 1), 3: (7,), 25: (2, 2, 8, 30)}
"""Prompt length → lengths of its completions; most are past the sliding windows of 16."""
KINDS = {f.name: dict(f.network) for f in FAMILIES} | {"gpt2": {}}
for windowed in ("gemma2", "mistral"):
    KINDS[windowed] = {**KINDS[windowed], "sliding_window": 16}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_owner = pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])


def network(kind, **more):
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "initializer_range": 0.25,
        "pad_token_id": None,
    }
    config = AutoConfig.for_model(kind, **{**sizes, **KINDS.get(kind, {}), **more})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return AutoModelForCausalLM.from_config(config).eval()


def weights(kind, lora, **more):
    """All of a model, or an adapter that no longer plays as its base."""
    if not lora:
        return Weights(network(kind, **more))
    told = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
    base = network(kind, **more)
    own = adapters(base, dict.fromkeys(Player, told), torch_seed=6)[Player.DEFENDER]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(9)
        for p in own.parameters.values():
            p.copy_(torch.randn_like(p) * 0.2)
    return own


def rows():
    rng = random.Random("groups")

    def ids(n):
        return tuple(rng.randrange(1, VOCABULARY) for _ in range(n))

    told = [(ids(before), lengths) for before, lengths in SIZES.items()]
    mixed = [(prompt, ids(n)) for prompt, lengths in told for n in lengths]
    return rng.sample(mixed, len(mixed))


def told(ask, model, dtype=torch.float32):
    """Log-probabilities of the rows, and the gradient of a sum that weighs every token anew."""
    model = model.to(dtype)
    batch = pad(rows(), range(len(rows())), PAD, "cpu")
    logp_BT = ask(model, batch, 0.7)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        weigh_BT = torch.randn_like(batch.mask_BT)
    (logp_BT * weigh_BT).sum().backward()
    return logp_BT.detach(), gradient_of(model)


@every_owner
@every_kind
def test_logprobs_and_gradient_are_those_of_whole_rows(kind, lora):
    own = weights(kind, lora)
    assert path_of(own.model) is SHARED
    other = copy.deepcopy(own.model)
    whole_BT, whole = told(logprobs, own.model)
    logp_BT, gradient = told(shared_logprobs, other)
    assert whole_BT.min() < -9, "the model has opinions"
    assert_close_sums(logp_BT, whole_BT)
    assert_close_sums(gradient, whole)
    if lora:
        assert gradient_of(own.model).keys() == gradient.keys()
        assert all(gradient[n].abs().max() > 0 for n in own.parameters), "every layer learns"


@every_kind
def test_in_bfloat16_sharing_is_as_near_to_the_truth_as_whole_rows_are(kind):
    truth_BT, truth = told(logprobs, network(kind))
    whole_BT, whole = told(logprobs, network(kind), torch.bfloat16)
    logp_BT, gradient = told(shared_logprobs, network(kind), torch.bfloat16)
    off, off_whole = (logp_BT - truth_BT).abs().mean(), (whole_BT - truth_BT).abs().mean()
    assert off < 1.5 * off_whole
    assert furthest(gradient, truth) < 1.5 * furthest(whole, truth)


def test_a_prompt_runs_once_however_many_complete_it():
    seen = []
    model = network("llama")
    model.model.register_forward_pre_hook(
        lambda _, args, told: seen.append(tuple(told["input_ids"].shape)), with_kwargs=True
    )
    batch = pad(rows(), range(len(rows())), PAD, "cpu")
    path_of(model)
    seen.clear()
    shared_logprobs(model, batch, 1.0)
    # Three prompts of at most 40 tokens; the last of 30 tokens is predicted and never read.
    assert seen == [(3, 40), (8, 29)]


def test_replies_of_one_token_need_their_prompt_alone():
    model = network("qwen2")
    some = [((3, 4, 5), (6,)), ((3, 4, 5), (7,)), ((8, 9), (10,))]
    batch = pad(some, range(3), PAD, "cpu")
    whole_BT = logprobs(model, batch, 1.0)
    assert_close_sums(shared_logprobs(model, batch, 1.0), whole_BT)


def samples():
    rng = random.Random("advantages")
    return [
        Sample(
            Player.DEFENDER,
            Completion("", reply, tuple(rng.uniform(-6, -1) for _ in reply), prompt),
            rng.gauss(0, 1),
        )
        for prompt, reply in rows()
    ]


def same_updates(monkeypatch, network, ways, beta):
    """One update by every (path, budget) of `ways` is the first one's."""
    found = []
    for path, budget in ways:
        monkeypatch.setattr("sparring.players.grpo.path_of", lambda model, path=path: path)
        model = network("qwen2")
        optimizer = Recorder(Weights(model), LearningRate(1e-3))
        config = GrpoConfig(beta=beta, micro_batch_tokens=budget)
        reference = Weights(moved(model, 0.02)).snapshot()
        metrics = Grpo(optimizer, PAD, config, reference).update(samples())
        found.append((optimizer.seen, metrics))
    (plain, wanted), *others = found
    for gradient, metrics in others:
        assert_close_sums(gradient, plain)
        assert_close_sums(metrics, wanted, scale=1.0)


@pytest.mark.parametrize("beta", [0.0, 0.05])
def test_an_update_is_the_plain_ones_in_any_micro_batches(monkeypatch, beta):
    ways = ((PLAIN, 10_000), (SHARED, 10_000), (SHARED, 90), (SHARED, 1))
    same_updates(monkeypatch, network, ways, beta)


def test_the_same_update_twice_is_the_same_to_the_bit():
    one, other = (told(shared_logprobs, network("gemma2")) for _ in range(2))
    assert torch.equal(one[0], other[0])
    assert same_bits(one[1], other[1])


sizes = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12)


@settings(deadline=None)
@given(sizes, st.integers(1, 80))
def test_micro_batches_of_groups_run_no_more_than_the_budget(groups, budget):
    prompts = [(n,) * before for n, (before, _) in enumerate(groups)]
    some = [(prompts[n % len(prompts)], (1,) * groups[n % len(groups)][1]) for n in range(20)]
    chunks = list(microbatches(some, budget, once))
    assert sorted(i for chunk in chunks for i in chunk) == list(range(len(some)))
    for chunk in chunks:
        distinct = {some[i][0] for i in chunk}
        run = len(distinct) * max(map(len, distinct)) + len(chunk) * max(
            len(some[i][1]) for i in chunk
        )
        assert len(chunk) == 1 or run <= budget


def test_a_group_is_cut_only_where_the_budget_ends():
    some = [((7,) * 10, (1,) * 4) for _ in range(5)] + [((8,) * 6, (1,) * 2) for _ in range(3)]
    assert list(microbatches(some, 10 + 5 * 4, once)) == [[0, 1, 2, 3, 4], [5, 6, 7]]
    assert list(microbatches(some, 10 + 3 * 4, once)) == [[0, 1, 2], [3, 4], [5, 6, 7]]
    assert list(microbatches(some, 2 * (10 + 4), every_row)) == [[0, 1], [2, 3], [4, 5], [6, 7]]


def checkpointing(training):
    model = network("llama", attention_dropout=0.0)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train(training)


def test_a_cache_that_gradient_checkpointing_drops_is_refused():
    batch = pad(rows(), range(len(rows())), PAD, "cpu")
    with pytest.raises(SparringError, match="dropped the cache"):
        shared_logprobs(checkpointing(training=True), batch, 1.0)


def test_a_family_that_keeps_more_than_keys_and_values_runs_whole_rows():
    config = AutoConfig.for_model(
        "qwen3_next",
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=8,
        linear_num_value_heads=2,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        layer_types=["linear_attention", "full_attention"],
    )
    assert path_of(AutoModelForCausalLM.from_config(config).eval()) is PLAIN


def test_a_model_on_flash_attention_runs_whole_rows():
    model = network(MISTRAL.name)
    model.config._attn_implementation_internal = "flash_attention_2"
    assert path_of(model) is PLAIN


def briefed():
    """The same groups under a brief that all their prompts begin with."""
    brief = tuple(range(5, 55))
    return [((*brief, *prompt), reply) for prompt, reply in rows()]


@every_owner
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"gemma2", "mistral"}))
def test_a_brief_runs_once_for_all_groups(kind, lora, monkeypatch):
    monkeypatch.setattr(decoding, "WORTH", 100)
    own = weights(kind, lora)
    other, seen = copy.deepcopy(own.model), []
    batch = pad(briefed(), range(len(briefed())), PAD, "cpu")
    whole_BT = logprobs(own.model, batch, 0.7)
    whole_BT.square().sum().backward()
    assert path_of(other) is SHARED
    body = causal(other).base_model
    body.register_forward_pre_hook(
        lambda _, args, told: seen.append(tuple(told["input_ids"].shape)), with_kwargs=True
    )
    logp_BT = shared_logprobs(other, batch, 0.7)
    logp_BT.square().sum().backward()
    # 50 tokens of brief once, the rest of three prompts, eight replies but for their last token.
    assert seen == [(1, 50), (3, 40), (8, 29)]
    assert_close_sums(logp_BT, whole_BT)
    assert_close_sums(gradient_of(other), gradient_of(own.model))


@pytest.mark.parametrize("kind", ["gemma2", "mistral"])
def test_a_sliding_window_gets_its_brief_with_every_prompt(kind, monkeypatch):
    monkeypatch.setattr(decoding, "WORTH", 100)
    model = network(kind)
    batch = pad(briefed(), range(len(briefed())), PAD, "cpu")
    whole_BT = logprobs(model, batch, 0.7)
    assert_close_sums(shared_logprobs(model, batch, 0.7), whole_BT)


def test_prompts_that_are_one_anothers_beginning_keep_a_token_of_their_own():
    some = [((7,) * n, (3, 4)) for n in (200, 150, 180)]
    batch = pad(some, range(3), PAD, "cpu")
    assert decoding.trunk(network("llama"), batch.prompt_PL, batch.seen_PL) == 149
    few = pad([((7, n), (3,)) for n in range(5)], range(5), PAD, "cpu")
    assert decoding.trunk(network("llama"), few.prompt_PL, few.seen_PL) == 0, (
        "nothing worth a run of its own"
    )
