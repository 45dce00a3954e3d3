"""The tensor losses are the sums one would write by hand, token by token, in float64."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.close import assert_close_sums

from sparring.players.grpo import AGGREGATIONS, Sizes, clipped_surrogate, k3

JUNK = 1.25
"""What lies in the padding."""


def padded(rows):
    longest = max(map(len, rows))
    return torch.tensor([row + [JUNK] * (longest - len(row)) for row in rows], dtype=torch.float64)


def token(logp, old, reference, advantage, epsilon, beta):
    """One token's loss and its derivative by that token's log-probability."""
    ratio, d = math.exp(logp - old), reference - logp
    low, high = 1 - epsilon[0], 1 + epsilon[1]
    surrogate = min(ratio * advantage, min(max(ratio, low), high) * advantage)
    cut = (advantage > 0 and ratio > high) or (advantage < 0 and ratio < low)
    # Where the surrogate has a kink it has no one derivative.
    assume(all(abs(ratio - edge) >= 1e-9 for edge in (low, high)))
    slope = (0.0 if cut else -ratio * advantage) + beta * (1 - math.exp(d))
    return beta * (math.exp(d) - d - 1) - surrogate, slope


@settings(deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", AGGREGATIONS)
def test_loss_and_gradient_are_the_double_loops_and_padding_has_exactly_no_gradient(name, data):
    """B rows of ragged tokens; `extra` rows of 7 tokens each belong to other micro-batches."""
    lengths = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))

    def ragged(low, high):
        numbers = st.floats(low, high)
        return [data.draw(st.lists(numbers, min_size=n, max_size=n)) for n in lengths]

    def beside(rows, low, high):
        pairs = zip(rows, ragged(low, high), strict=True)
        return [[x + d for x, d in zip(row, by, strict=True)] for row, by in pairs]

    logp = ragged(-9, -0.01)
    old, reference = beside(logp, -1.5, 1.5), beside(logp, -2, 2)
    count = len(lengths)
    advantage = data.draw(st.lists(st.floats(-3, 3), min_size=count, max_size=count))
    epsilon = data.draw(st.tuples(st.floats(0.05, 0.4), st.floats(0.05, 0.9)))
    beta = data.draw(st.sampled_from([0.0, 0.05, 0.7]))
    longest, extra = data.draw(st.integers(6, 20)), data.draw(st.integers(0, 3))

    # The loss and its gradient by the log-probabilities, as `Grpo` composes them.
    logp_BT = padded(logp).requires_grad_()
    advantage_B = torch.tensor(advantage, dtype=torch.float64)
    loss_BT = clipped_surrogate(logp_BT, padded(old), advantage_B, epsilon)
    loss_BT = loss_BT + beta * k3(logp_BT, padded(reference))
    mask_BT = torch.tensor([[float(t < n) for t in range(max(lengths))] for n in lengths])
    sizes = Sizes(count + extra, sum(lengths) + 7 * extra, longest)
    loss = AGGREGATIONS[name](loss_BT, mask_BT.double(), sizes)
    loss.backward()

    total = 0.0
    for i, length in enumerate(lengths):
        row, constant = sizes.sequences * length, sizes.sequences * longest
        weight = 1 / {"grpo": row, "dr_grpo": constant, "dapo": sizes.tokens}[name]
        for t in range(length):
            numbers = logp[i][t], old[i][t], reference[i][t]
            value, slope = token(*numbers, advantage[i], epsilon, beta)
            total += weight * value
            assert logp_BT.grad[i, t].item() == pytest.approx(weight * slope, abs=1e-10)
        assert logp_BT.grad[i, length:].tolist() == [0.0] * (max(lengths) - length)
    assert loss.item() == pytest.approx(total, abs=1e-10)


@settings(deadline=None)
@given(st.floats(-9, 0), st.floats(-9, 0))
def test_k3_is_never_negative(logp, reference):
    kl = k3(torch.tensor(logp, dtype=torch.float64), torch.tensor(reference))
    assert kl.item() >= -1e-12


def test_k3_of_a_token_half_as_likely_under_the_reference():
    # d = ln(1/2): 1/2 + ln 2 − 1.
    kl = k3(torch.tensor(math.log(0.6)), torch.tensor(math.log(0.3)))
    assert_close_sums(kl.item(), 0.1931471805599453, scale=1.0)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [
        (1.5, 2.0, -2.6),  # better and already likelier: held at 1 + 0.3
        (1.5, -2.0, 3.0),  # worse but likelier: pushed down in full
        (0.5, 2.0, -1.0),  # better but less likely: pushed up in full
        (0.5, -2.0, 1.8),  # worse and already less likely: held at 1 − 0.1
        (1.2, 2.0, -2.4),  # within the bounds
    ],
)
def test_the_pessimistic_bound_of_ppo(ratio, advantage, loss):
    logp_BT, old_BT = torch.tensor([[math.log(0.2 * ratio)]]), torch.tensor([[math.log(0.2)]])
    loss_BT = clipped_surrogate(logp_BT, old_BT, torch.tensor([advantage]), (0.1, 0.3))
    assert_close_sums(loss_BT.item(), loss)


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("grpo", (5.0 + (2.0 + 4.0 + 9.0) / 3) / 2),
        ("dr_grpo", (5.0 + 2.0 + 4.0 + 9.0) / (2 * 8)),
        ("dapo", (5.0 + 2.0 + 4.0 + 9.0) / 4),
    ],
)
def test_a_short_and_a_long_row_weigh_as_published(name, loss):
    loss_BT = torch.tensor([[5.0, JUNK, JUNK], [2.0, 4.0, 9.0]])
    mask_BT = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    mean = AGGREGATIONS[name](loss_BT, mask_BT, Sizes(2, 4, 8))
    assert mean.item() == pytest.approx(loss)
