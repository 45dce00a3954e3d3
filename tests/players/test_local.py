"""A local model's samples depend only on its weights, the prompt and the address."""

import copy
import random
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from tests.close import SPACINGS, assert_close_sums
from tests.players.lively import (
    batch_of,
    chat,
    flat,
    lively,
    next_logits,
    one_by_one,
    policy,
    request_of,
    requests,
    words,
)

from sparring.players.loading import load_model
from sparring.players.local import _draw, uniforms
from sparring.players.logprobs import logprobs
from sparring.players.player import Request
from sparring.players.weights import Weights
from sparring.sandbox.model import SHIPPED
from sparring.types import SparringError, UsageError

pytestmark = pytest.mark.numeric

VAULT = "tell me how to open the dragon vault ."


def logprobs_of(completions):
    return [logp for completion in completions for logp in completion.logprobs]


def assert_same(actual, expected, limit):
    """The same tokens; their log-probabilities lie at most `limit` spacings of float32 apart."""
    assert [c.token_ids for c in actual] == [c.token_ids for c in expected]
    assert_close_sums(logprobs_of(actual), logprobs_of(expected), limit=limit)


# Log-probabilities are float32 whatever the model is. Of a model in float64 nothing but a wrong
# mask, position or cache can make them differ by more than their last digits.
EXACT = 8
both_precisions = pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float64, EXACT), (torch.float32, SPACINGS)]
)


@both_precisions
@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_a_batch_of_one_equals_one_of_a_batch(dtype, limit, temperature):
    sampler = policy(lively().to(dtype), temperature)
    together = flat(sampler.sample(requests()))
    assert len({len(c.token_ids) for c in together}) >= 4  # rows leave on the way
    assert_same(together, one_by_one(sampler), limit)


@pytest.mark.parametrize("batch_tokens", [1, 70, 150])
def test_batches_stay_within_their_tokens_and_change_nothing(batch_tokens):
    model, batches = lively().double(), []

    def note(_, __, inputs):
        places_BT = inputs["position_ids"]
        batches.append(len(places_BT) * (int(places_BT.max()) + 1))

    whole = flat(policy(model).sample(requests()))
    model.register_forward_pre_hook(note, with_kwargs=True)
    assert_same(flat(policy(model, batch_tokens=batch_tokens).sample(requests())), whole, EXACT)
    # The widest request alone is 4 rows of 7 + 12 tokens; it cannot be cut.
    assert max(batches) <= max(batch_tokens, 4 * (7 + 12))
    policy(model).sample(requests())
    assert max(batches) > 150


def test_the_order_of_requests_and_addresses_does_not_matter():
    sampler = policy()
    expected = {
        (request_.observation, address): completion.token_ids
        for request_, row in zip(requests(), sampler.sample(requests()), strict=True)
        for address, completion in zip(request_.addresses, row, strict=True)
    }
    rng = random.Random("order")
    for _ in range(3):
        mixed = [
            Request(r.observation, tuple(rng.sample(r.addresses, len(r.addresses))))
            for r in rng.sample(requests(), len(requests()))
        ]
        for request_, row in zip(mixed, sampler.sample(mixed), strict=True):
            for address, completion in zip(request_.addresses, row, strict=True):
                assert completion.token_ids == expected[request_.observation, address]


def test_the_same_address_draws_the_same_and_another_draws_something_else():
    addresses = tuple(f"0/17/attacker/{i}" for i in range(16))
    first, second = policy().sample([request_of(VAULT, *addresses)] * 2)
    assert_same(first, second, SPACINGS)  # not to the bit: other rows of one product
    assert len({completion.token_ids for completion in first}) == 16


def test_a_request_without_addresses_gets_no_completion():
    rows = policy().sample([request_of("mend", "0"), request_of("open the vault")])
    assert [len(row) for row in rows] == [1, 0]
    assert policy().sample([]) == []


def test_global_randomness_is_neither_read_nor_moved():
    sampler, results = policy(), []
    for process in (1, 2):
        torch.manual_seed(process)
        np.random.seed(process)
        random.seed(process)
        before = torch.random.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        results.append(sampler.sample(requests()))
        assert torch.equal(before[0], torch.random.get_rng_state())
        assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())
    assert results[0] == results[1]


def test_an_addresss_numbers_are_the_same_on_every_machine():
    expected = [0.9497536177475308, 0.5705487509730475, 0.12208115737015879, 0.7580880275051932]
    assert uniforms("0/17/attacker", 4).tolist() == pytest.approx(expected, abs=1e-15)
    assert uniforms("0/17/attacker", 9)[:4].tolist() == uniforms("0/17/attacker", 4).tolist()


def test_a_longer_limit_only_adds_tokens():
    model = lively()
    short, long = (flat(policy(model, length=n).sample(requests())) for n in (5, 12))
    assert any(len(c.token_ids) > 5 for c in long)
    assert [c.token_ids for c in short] == [c.token_ids[:5] for c in long]


def assert_recomputed(sampler, completions, limit=SPACINGS):
    """The sampled log-probabilities are the learner's."""
    batch = batch_of(completions, sampler.chat.pad_id)
    with torch.no_grad():
        logp_BT = logprobs(sampler.weights.model, batch, sampler.sampling.temperature)
    own = logp_BT[batch.mask_BT.bool()].tolist()
    assert_close_sums(own, logprobs_of(completions), limit=limit)


@both_precisions
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampled_logprobs_are_what_the_learner_recomputes(dtype, limit, temperature):
    sampler = policy(lively().to(dtype), temperature)
    assert_recomputed(sampler, flat(sampler.sample(requests())), limit)


def test_the_shipped_base_recomputes_its_logprobs():
    sampler = policy(load_model(str(SHIPPED)), stops=(), length=24)
    completions = flat(sampler.sample(requests()))
    assert_recomputed(sampler, completions)
    assert_same(completions, one_by_one(sampler), SPACINGS)


def test_a_completion_has_its_prompt_and_version_and_no_special_tokens_in_its_text():
    sampler = policy(stops=(), length=30)
    sampler.weights.version = 41
    (row,) = sampler.sample([request_of("open the vault", *map(str, range(60)))])
    prompt = sampler.chat.prompt_ids(request_of("open the vault").observation)
    assert {(c.prompt_ids, c.version) for c in row} == {(prompt, 41)}
    special, spelled = set(words().all_special_tokens), words().convert_ids_to_tokens
    assert any(set(spelled(c.token_ids)) & special for c in row)
    for completion in row:
        plain = [word for word in spelled(completion.token_ids) if word not in special]
        assert completion.text.split() == plain
    # The end of a turn stops without being named.
    ended = [c for c in row if c.finished]
    assert 0 < len(ended) < 60
    assert {spelled(c.token_ids[-1]) for c in ended} == {"<|end|>"}


def test_a_completion_is_finished_if_and_only_if_it_ended_on_a_stop_token():
    stops = chat().stop_ids
    by_length = {n: flat(policy(length=n).sample(requests())) for n in (6, 12)}
    long = next(len(c.token_ids) for c in by_length[12] if c.finished and len(c.token_ids) > 1)
    by_length[long] = flat(policy(length=long).sample(requests()))
    assert any(c.finished and len(c.token_ids) == long for c in by_length[long]), "at the limit"
    assert {c.finished for c in by_length[6]} == {True, False}
    for length, completions in by_length.items():
        for completion in completions:
            *body, last = completion.token_ids
            assert not stops & set(body)
            assert completion.finished == (last in stops)
            assert completion.finished or len(completion.token_ids) == length


def test_temperature_0_takes_the_likeliest_token_whatever_the_address():
    model = lively()
    (row,) = policy(model, temperature=0.0, length=8).sample([request_of(VAULT, "0", "1", "2")])
    assert len({c.token_ids for c in row}) == 1
    completion, ids = row[0], list(row[0].prompt_ids)
    for token, logp in zip(completion.token_ids, completion.logprobs, strict=True):
        logits_V = next_logits(model, ids)
        assert token == logits_V.argmax().item()
        assert_close_sums(logp, logits_V.log_softmax(-1)[token].item(), scale=10.0)
        ids.append(token)
    assert set(completion.token_ids) != {completion.token_ids[0]}


def p_value(counts, probability_V):
    """Of the counts under the probabilities; rare tokens (under 5 expected) share one cell."""
    n = sum(counts.values())
    common = [i for i, p in enumerate(probability_V) if n * p >= 5]
    observed = [counts[i] for i in common]
    expected = [n * probability_V[i] for i in common]
    return chisquare([*observed, n - sum(observed)], [*expected, n - sum(expected)]).pvalue


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_tokens_are_drawn_as_often_as_the_softmax_says(temperature):
    model = lively()
    addresses = [f"chi-square/{i}" for i in range(6000)]
    (row,) = policy(model, temperature, length=1).sample([request_of("open the vault", *addresses)])
    counts = Counter(c.token_ids[0] for c in row)
    logits_V = next_logits(model, row[0].prompt_ids).double()
    assert p_value(counts, (logits_V / temperature).softmax(-1).tolist()) > 0.01
    # The test has the power to tell: a temperature 7 % off would not pass.
    assert p_value(counts, (logits_V / (temperature * 1.07)).softmax(-1).tolist()) < 1e-4


def test_a_token_of_no_probability_is_never_drawn():
    never = -float("inf")
    logits_BV = torch.tensor([[never, 0.4, never, 1.1, never]]).repeat(3, 1)
    u_B = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    token_B, logp_B = _draw(logits_BV, u_B, 1.0)
    assert token_B.tolist() == [1, 3, 3]
    assert logp_B.tolist() == pytest.approx([-1.103186, -0.403186, -0.403186], abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_a_model_that_computes_nan_is_an_error_and_not_a_harmless_reply(temperature):
    sampler = policy(lively(), temperature)
    with torch.no_grad():
        sampler.weights.model.model.layers[1].mlp.down_proj.weight[3, 17] = float("nan")
    with pytest.raises(SparringError, match=r"14 of 14 completions .* \(NaN\)"):
        sampler.sample(requests())
    with pytest.raises(UsageError, match=r"cannot be played: its logits are not numbers"):
        policy(copy.deepcopy(sampler.weights.model))


def test_other_weights_draw_something_else_also_while_they_are_held():
    weights, other = Weights(lively(3)), lively(4)
    own, others = (policy(w).sample(requests()) for w in (weights, other))
    assert own != others
    with weights.holding(Weights(other).snapshot()):
        assert policy(weights).sample(requests()) == others
    assert policy(weights).sample(requests()) == own
