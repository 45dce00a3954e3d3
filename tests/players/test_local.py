"""What a model in this process says depends on its weights, the prompt and the address alone."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from tests.close import SPACINGS, assert_close_sums
from tests.players.lively import (
    asked,
    chat,
    lively,
    next_logits,
    one_by_one,
    policy,
    requests,
    words,
)

from sparring.players.loading import load_model
from sparring.players.local import _draw, uniforms
from sparring.players.logprobs import logprobs, pad
from sparring.players.player import Request
from sparring.players.weights import Weights
from sparring.sandbox.model import SHIPPED
from sparring.types import SparringError

pytestmark = pytest.mark.numeric


def flat(said):
    return [completion for row in said for completion in row]


def logprobs_of(said):
    return [logp for completion in flat(said) for logp in completion.logprobs]


def assert_same(one, other, limit):
    """The same tokens; their log-probabilities lie at most `limit` spacings of float32 apart."""
    assert [c.token_ids for c in flat(one)] == [c.token_ids for c in flat(other)]
    assert_close_sums(logprobs_of(one), logprobs_of(other), limit=limit)


# Log-probabilities are float32 whatever the model is. Of a model in float64 nothing but a wrong
# mask, position or cache can make them differ by more than their last digits.
EXACT = 8
both_precisions = pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float64, EXACT), (torch.float32, SPACINGS)]
)


@both_precisions
@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_a_batch_of_one_equals_one_of_a_batch(dtype, limit, temperature):
    speaks = policy(lively().to(dtype), temperature)
    together = speaks.sample(requests())
    assert len({len(c.token_ids) for c in flat(together)}) >= 4  # rows leave on the way
    assert_same(together, one_by_one(speaks, requests()), limit)


@pytest.mark.parametrize("batch_tokens", [1, 70, 150])
def test_how_requests_are_cut_into_batches_changes_nothing(batch_tokens):
    model = lively().double()
    whole = policy(model).sample(requests())
    cut = policy(model, batch_tokens=batch_tokens).sample(requests())
    assert_same(whole, cut, EXACT)


def test_batches_stay_within_their_tokens():
    model = lively()
    sizes = []

    def note(_, __, given):
        places_BT = given["position_ids"]
        sizes.append(len(places_BT) * (int(places_BT.max()) + 1))

    model.register_forward_pre_hook(note, with_kwargs=True)
    policy(model, batch_tokens=70).sample(requests())
    # The widest request alone is 4 rows of 7 + 12 tokens; it cannot be cut.
    assert max(sizes) <= 4 * (7 + 12)
    before = len(sizes)
    policy(model).sample(requests())
    assert max(sizes[before:]) > 100


def test_the_order_of_requests_and_addresses_does_not_matter():
    speaks = policy()
    said = speaks.sample(requests())
    told = {
        (request.observation, address): completion.token_ids
        for request, row in zip(requests(), said, strict=True)
        for address, completion in zip(request.addresses, row, strict=True)
    }
    rng = random.Random("order")
    for _ in range(3):
        mixed = [
            Request(r.observation, tuple(rng.sample(r.addresses, len(r.addresses))))
            for r in rng.sample(requests(), len(requests()))
        ]
        for request, row in zip(mixed, speaks.sample(mixed), strict=True):
            found = [completion.token_ids for completion in row]
            assert found == [told[request.observation, address] for address in request.addresses]


def test_the_same_address_says_the_same_and_another_says_something_else():
    text = "tell me how to open the dragon vault ."
    addresses = tuple(f"0/17/attacker/{i}" for i in range(16))
    said = policy().sample([asked(text, *addresses), asked(text, *addresses)])
    assert_same(said[:1], said[1:], SPACINGS)  # not to the bit: other rows of one product
    assert len({completion.token_ids for completion in said[0]}) == 16


def test_a_width_of_no_addresses_says_nothing():
    said = policy().sample([asked("mend", "0"), asked("open the vault")])
    assert [len(row) for row in said] == [1, 0]
    assert policy().sample([]) == []


def test_global_randomness_is_neither_read_nor_moved():
    speaks, found = policy(), []
    for process in (1, 2):
        torch.manual_seed(process)
        np.random.seed(process)
        random.seed(process)
        before = torch.random.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        found.append(speaks.sample(requests()))
        assert torch.equal(before[0], torch.random.get_rng_state())
        assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())
    assert found[0] == found[1]


def test_an_addresss_numbers_are_the_same_on_every_machine():
    wanted = [0.9497536177475308, 0.5705487509730475, 0.12208115737015879, 0.7580880275051932]
    assert uniforms("0/17/attacker", 4).tolist() == pytest.approx(wanted, abs=1e-15)
    assert uniforms("0/17/attacker", 9)[:4].tolist() == uniforms("0/17/attacker", 4).tolist()


def test_a_longer_limit_only_adds_to_what_was_said():
    model = lively()
    short = flat(policy(model, length=5).sample(requests()))
    long = flat(policy(model, length=12).sample(requests()))
    assert any(len(c.token_ids) > 5 for c in long)
    assert [c.token_ids for c in short] == [c.token_ids[:5] for c in long]


def assert_recomputed(speaks, said, limit=SPACINGS):
    """The sampled log-probabilities are the learner's."""
    rows = [(c.prompt_ids, c.token_ids) for c in said]
    batch = pad(rows, range(len(rows)), speaks.chat.pad_id, "cpu")
    with torch.no_grad():
        logp_BT = logprobs(speaks.weights.model, batch, speaks.sampling.temperature)
    rows = (logp_BT[row, : len(c.token_ids)].tolist() for row, c in enumerate(said))
    assert_close_sums([logp for row in rows for logp in row], logprobs_of([said]), limit=limit)


@both_precisions
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampled_logprobs_are_what_the_learner_recomputes(dtype, limit, temperature):
    speaks = policy(lively().to(dtype), temperature)
    assert_recomputed(speaks, flat(speaks.sample(requests())), limit)


def test_the_shipped_base_recomputes_its_logprobs():
    speaks = policy(load_model(str(SHIPPED)), stops=(), length=24)
    said = flat(speaks.sample(requests()))
    assert_recomputed(speaks, said)
    assert_same([said], one_by_one(speaks, requests()), SPACINGS)


def test_a_completion_is_told_with_its_prompt_its_version_and_without_its_template():
    speaks = policy(stops=())
    speaks.weights.version = 41
    (said,) = speaks.sample([asked("open the vault", *map(str, range(40)))])
    prompt = speaks.chat.prompt_ids(asked("open the vault").observation)
    assert {(c.prompt_ids, c.version) for c in said} == {(prompt, 41)}
    special = set(words().all_special_tokens)
    assert any(set(words().convert_ids_to_tokens(c.token_ids)) & special for c in said)
    for completion in said:
        plain = [w for w in words().convert_ids_to_tokens(completion.token_ids) if w not in special]
        assert completion.text.split() == plain


def test_a_completion_is_finished_if_and_only_if_it_ended_on_a_stop_token():
    speaks = policy(length=6)
    said = flat(speaks.sample(requests()))
    stops = speaks.chat.stop_ids
    assert {c.finished for c in said} == {True, False}
    for completion in said:
        *body, last = completion.token_ids
        assert not stops & set(body)
        assert completion.finished == (last in stops)
        assert completion.finished or len(completion.token_ids) == 6


def test_a_stop_token_at_the_very_limit_still_finishes():
    said = flat(policy(length=12).sample(requests()))
    length = next(len(c.token_ids) for c in said if c.finished and len(c.token_ids) > 1)
    at_limit = flat(policy(length=length).sample(requests()))
    assert any(c.finished and len(c.token_ids) == length for c in at_limit)


def test_the_turns_end_is_a_stop_token_without_being_named():
    speaks = policy(stops=(), length=30)
    said = flat(speaks.sample([asked("open the vault", *map(str, range(60)))]))
    ended = [c for c in said if c.finished]
    assert 0 < len(ended) < 60
    assert {words().convert_ids_to_tokens(c.token_ids[-1]) for c in ended} == {"<|end|>"}


def test_temperature_0_takes_the_likeliest_token_whatever_the_address():
    model = lively()
    speaks = policy(model, temperature=0.0, length=8)
    (said,) = speaks.sample([asked("tell me how to open the vault .", "0", "1", "2")])
    assert len({c.token_ids for c in said}) == 1
    completion, ids = said[0], list(said[0].prompt_ids)
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
    observed.append(n - sum(observed))
    expected.append(n - sum(expected))
    return chisquare(observed, expected).pvalue


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_tokens_are_drawn_as_often_as_the_softmax_says(temperature):
    model = lively()
    addresses = [f"chi-square/{i}" for i in range(6000)]
    (said,) = policy(model, temperature, length=1).sample([asked("open the vault", *addresses)])
    counts = Counter(c.token_ids[0] for c in said)
    logits_V = next_logits(model, said[0].prompt_ids).double()
    assert p_value(counts, (logits_V / temperature).softmax(-1).tolist()) > 0.01
    # The test has the power to tell: a temperature 7 % off would not pass.
    assert p_value(counts, (logits_V / (temperature * 1.07)).softmax(-1).tolist()) < 1e-4


def test_later_tokens_are_drawn_as_often_as_the_softmax_says():
    # The second token, given the likeliest first one: through the cache, after rows have left.
    model = lively()
    addresses = [f"chi-square/{i}" for i in range(6000)]
    (said,) = policy(model, length=2).sample([asked("mend", *addresses)])
    going = [c for c in said if len(c.token_ids) == 2]
    assert len(going) < len(said)
    first, n = Counter(c.token_ids[0] for c in going).most_common(1)[0]
    assert n > 400
    counts = Counter(c.token_ids[1] for c in going if c.token_ids[0] == first)
    logits_V = next_logits(model, (*said[0].prompt_ids, first)).double()
    assert p_value(counts, logits_V.softmax(-1).tolist()) > 0.01


def test_a_token_of_no_probability_is_never_drawn():
    never = -float("inf")
    logits_BV = torch.tensor([[never, 0.4, never, 1.1, never]]).repeat(3, 1)
    u_B = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    token_B, logp_B = _draw(logits_BV, u_B, 1.0)
    assert token_B.tolist() == [1, 3, 3]
    assert logp_B.tolist() == pytest.approx([-1.103186, -0.403186, -0.403186], abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_a_model_that_computes_nan_is_an_error_and_not_a_harmless_reply(temperature):
    model = lively()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 17] = float("nan")
    with pytest.raises(SparringError, match=r"14 of 14 completions .* \(NaN\)"):
        policy(model, temperature).sample(requests())


def test_another_policys_weights_say_something_else():
    one, other = policy(lively(3)), policy(lively(4))
    assert flat(one.sample(requests())) != flat(other.sample(requests()))
    weights = Weights(lively(3))
    speaks = policy(weights)
    with weights.holding(Weights(lively(4)).snapshot()):
        assert flat(speaks.sample(requests())) == flat(other.sample(requests()))
    assert flat(speaks.sample(requests())) == flat(one.sample(requests()))


def test_every_prompt_is_the_templates():
    (request,) = [asked("open the vault", "0", brief="copy this")]
    told = chat().prompt_ids(request.observation)
    assert (
        words().decode(told)
        == "<|system|> copy this <|end|> <|user|> open the vault <|end|> <|assistant|>"
    )
