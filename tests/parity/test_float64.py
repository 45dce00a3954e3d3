"""The tensor losses are the sums one would write by hand, token by token, in float64."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.close import assert_close_sums

from sparring.players.grpo import AGGREGATIONS, Sizes, clipped_surrogate, k3

JUNK = 1.25
"""What lies in the padding."""


@dataclass(frozen=True)
class Batch:
    """B rows of ragged tokens; `extra` rows of 7 tokens each belong to other micro-batches."""

    logp: list[list[float]]
    old: list[list[float]]
    reference: list[list[float]]
    advantage: list[float]
    epsilon: tuple[float, float]
    beta: float
    longest: int
    extra: int

    @property
    def lengths(self):
        return [len(row) for row in self.logp]

    @property
    def sequences(self):
        return len(self.logp) + self.extra

    @property
    def tokens(self):
        return sum(self.lengths) + 7 * self.extra


@st.composite
def batches(draw):
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))

    def ragged(low, high):
        numbers = st.floats(low, high)
        return [draw(st.lists(numbers, min_size=n, max_size=n)) for n in lengths]

    def beside(rows, by):
        return [[x + d for x, d in zip(*pair, strict=True)] for pair in zip(rows, by, strict=True)]

    logp = ragged(-9, -0.01)
    old, reference = beside(logp, ragged(-1.5, 1.5)), beside(logp, ragged(-2, 2))
    advantage = draw(st.lists(st.floats(-3, 3), min_size=len(lengths), max_size=len(lengths)))
    epsilon = draw(st.tuples(st.floats(0.05, 0.4), st.floats(0.05, 0.9)))
    beta = draw(st.sampled_from([0.0, 0.05, 0.7]))
    longest, extra = draw(st.integers(6, 20)), draw(st.integers(0, 3))
    return Batch(logp, old, reference, advantage, epsilon, beta, longest, extra)


def padded(rows):
    longest = max(map(len, rows))
    return torch.tensor([row + [JUNK] * (longest - len(row)) for row in rows], dtype=torch.float64)


def masked(batch):
    longest = max(batch.lengths)
    return torch.tensor([[float(t < n) for t in range(longest)] for n in batch.lengths])


def by_tensors(batch, name):
    """The loss and its gradient by the log-probabilities, as `Grpo` composes them."""
    logp_BT = padded(batch.logp).requires_grad_()
    advantage_B = torch.tensor(batch.advantage, dtype=torch.float64)
    loss_BT = clipped_surrogate(logp_BT, padded(batch.old), advantage_B, batch.epsilon)
    loss_BT = loss_BT + batch.beta * k3(logp_BT, padded(batch.reference))
    sizes = Sizes(batch.sequences, batch.tokens, batch.longest)
    loss = AGGREGATIONS[name](loss_BT, masked(batch).double(), sizes)
    loss.backward()
    return loss.item(), logp_BT.grad


def token(batch, i, t):
    """One token's loss and its derivative by that token's log-probability."""
    low, high = batch.epsilon
    advantage = batch.advantage[i]
    ratio = math.exp(batch.logp[i][t] - batch.old[i][t])
    bounded = min(max(ratio, 1 - low), 1 + high)
    surrogate = min(ratio * advantage, bounded * advantage)
    cut = (advantage > 0 and ratio > 1 + high) or (advantage < 0 and ratio < 1 - low)
    d = batch.reference[i][t] - batch.logp[i][t]
    loss = -surrogate + batch.beta * (math.exp(d) - d - 1)
    slope = (0.0 if cut else -ratio * advantage) + batch.beta * (1 - math.exp(d))
    return loss, slope


def weight(batch, name, i):
    """What a token of row i weighs in the whole."""
    return {
        "grpo": 1 / (batch.sequences * batch.lengths[i]),
        "dr_grpo": 1 / (batch.sequences * batch.longest),
        "dapo": 1 / batch.tokens,
    }[name]


def on_a_corner(batch):
    """Where the surrogate has a kink it has no one derivative."""
    ratios = [
        math.exp(x - y)
        for row, old in zip(batch.logp, batch.old, strict=True)
        for x, y in zip(row, old, strict=True)
    ]
    edges = (1 - batch.epsilon[0], 1 + batch.epsilon[1])
    return any(abs(ratio - edge) < 1e-9 for ratio in ratios for edge in edges)


@settings(deadline=None)
@given(batches())
@pytest.mark.parametrize("name", AGGREGATIONS)
def test_loss_and_gradient_are_the_double_loops_and_padding_has_exactly_no_gradient(name, batch):
    assume(not on_a_corner(batch))
    loss, grad_BT = by_tensors(batch, name)
    total = 0.0
    for i, length in enumerate(batch.lengths):
        for t in range(length):
            value, slope = token(batch, i, t)
            total += weight(batch, name, i) * value
            assert grad_BT[i, t].item() == pytest.approx(weight(batch, name, i) * slope, abs=1e-10)
        assert grad_BT[i, length:].tolist() == [0.0] * (grad_BT.shape[1] - length)
    assert loss == pytest.approx(total, abs=1e-10)


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
