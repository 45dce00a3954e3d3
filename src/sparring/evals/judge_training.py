"""Trains small judges on replies that people have labelled, and measures how often they err."""

import hashlib
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save
from scipy.optimize import minimize

from sparring import packaged
from sparring.data.readers import Labelled, read_labelled
from sparring.judges.features import Exchange, Features
from sparring.judges.linear import HEADS, Card, LinearJudge, Share
from sparring.stats.rates import Outcome, grouped, rate
from sparring.types import UsageError

PENALTY = {"words": 0.1, "hidden": 30.0}
"""The weight of the squared weights beside the summed loss of the examples, by features: few of the
hashed words are ever seen twice, and hidden states are many for as few replies."""
FOLDS = 5
UNDECODED: list[str] = packaged.table("evals/undecoded.yaml")
"""Replies to a request in a code that was not understood: they refuse nothing and help nobody."""


@dataclass(frozen=True, slots=True)
class Example:
    """An exchange with its labels by head (None: not for this head), its prompt and its source."""

    exchange: Exchange
    labels: tuple[bool | None, bool | None]
    prompt: str
    source: str


def labelled_examples(paths: Sequence[Path], prompts: Collection[str] = ()) -> list[Example]:
    """Read replies with people's labels for refusal; `prompts` keeps those ids alone.

    Where nobody ruled on it, a reply that is not refused counts as on target. UsageError where a
    file has no labels for refusal.
    """
    replies = [(path.stem, item) for path in paths for item in read_labelled(path).items]
    examples = [
        Example((q := item.seed.requested, item.reply), (refused, _on_target(item)), q, stem)
        for stem, item in replies
        if (refused := item.refused) is not None and (not prompts or item.seed.id in prompts)
    ]
    if not examples:
        raise UsageError(
            f"{', '.join(map(str, paths))}: no reply that people called a refusal or not"
            + (", of the prompts that were named" if prompts else "")
        )
    return examples


def _on_target(item: Labelled) -> bool | None:
    return None if item.refused else item.on_target is not False


def with_negatives(examples: Sequence[Example], rng: random.Random) -> list[Example]:
    """Return the examples and, for each that answers, one that does not answer its request.

    Made are: a reply to another prompt, a reply cut after a few words, one that repeats itself, its
    words in disorder, random letters, and a reply to a code that was not understood.
    """
    answers = [example for example in examples if example.labels[1]]
    made = (
        Example((e.exchange[0], _negative(e, answers, rng)), (None, False), e.prompt, e.source)
        for e in answers
    )
    return [*examples, *made]


def _negative(example: Example, answers: Sequence[Example], rng: random.Random) -> str:
    words = example.exchange[1].split()[:80]
    kind = rng.choices(("other", "shuffled", "repeated", "cut", "letters", "code"), _SHARES)[0]
    if kind == "other":
        others = [other for other in answers if other.prompt != example.prompt]
        return rng.choice(others).exchange[1] if others else ""
    if kind == "shuffled":
        return " ".join(rng.sample(words, len(words)))
    if kind == "repeated":
        start = rng.randrange(max(1, len(words) - 8))
        return " ".join(words[start : start + rng.randint(2, 8)] * 12)
    if kind == "cut":
        return " ".join(words[: rng.randint(0, 4)])
    if kind == "letters":
        return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz    ", k=200))
    return rng.choice(UNDECODED)


_SHARES = (60, 8, 8, 8, 6, 10)


def fit(features_ND: Any, label_N: Any, penalty: float) -> Any:
    """Return the weights [D + 1] of a logistic regression; the last one is the bias.

    They minimise Σ log(1 + exp(−s z)) + penalty ‖w‖² / 2, s = ±1; both labels weigh the same.
    Dense features are brought to mean 0 and deviation 1 first, and the weights taken back.
    """
    dense = isinstance(features_ND, np.ndarray)
    mean_D = features_ND.mean(0) if dense else 0.0
    scale_D = features_ND.std(0) + 1e-6 if dense else 1.0
    x_ND = (features_ND - mean_D) / scale_D if dense else features_ND
    sign_N = np.where(label_N, 1.0, -1.0)
    share = np.mean(label_N)
    weight_N = np.where(label_N, 0.5 / share, 0.5 / (1 - share))

    def loss(w: Any) -> tuple[float, Any]:
        margin_N = sign_N * (x_ND @ w[:-1] + w[-1])
        slope_N = -sign_N * weight_N * np.exp(-np.logaddexp(0, margin_N))
        value = weight_N @ np.logaddexp(0, -margin_N) + penalty * (w[:-1] @ w[:-1]) / 2
        return value, np.append(x_ND.T @ slope_N + penalty * w[:-1], slope_N.sum())

    start = np.zeros(features_ND.shape[1] + 1)
    w = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    slope_D = w[:-1] / scale_D
    return np.append(slope_D, w[-1] - np.sum(slope_D * mean_D))


def trained_heads(features_ND: Any, examples: Sequence[Example], penalty: float) -> Any:
    """Return the weights [H, D + 1] of all heads, each fitted to the examples labelled for it."""
    rows = []
    for place, name in enumerate(HEADS):
        known = [i for i, e in enumerate(examples) if e.labels[place] is not None]
        label_N = np.array([bool(examples[i].labels[place]) for i in known])
        if label_N.all() or not label_N.any():
            raise UsageError(
                f"{name}: all of {len(known)} examples have one label, perhaps without those that "
                "cross-validation leaves out; wanted more prompts of both labels"
            )
        rows.append(fit(features_ND[known], label_N, penalty))
    return np.stack(rows)


def cross_validated(
    features_ND: Any, examples: Sequence[Example], penalty: float, rng: random.Random
) -> dict[str, Share]:
    """Return each head's sensitivity and specificity on prompts and sources it was not fitted to.

    For each fold of the prompts and each source, the heads are fitted to the other folds of the
    other sources. Intervals resample prompts. With one source the folds alone are left out.
    """
    prompts = sorted({example.prompt for example in examples})
    fold = {prompt: place % FOLDS for place, prompt in enumerate(rng.sample(prompts, len(prompts)))}
    sources = sorted({example.source for example in examples})
    outcomes: list[tuple[str, Outcome]] = []
    for source, k in product(sources, range(FOLDS)):
        test = [i for i, e in enumerate(examples) if e.source == source and fold[e.prompt] == k]
        if not test:
            continue
        train = [
            i
            for i, e in enumerate(examples)
            if fold[e.prompt] != k and (e.source != source or len(sources) == 1)
        ]
        weight_HD = trained_heads(features_ND[train], [examples[i] for i in train], penalty)
        score_NH = features_ND[test] @ weight_HD[:, :-1].T + weight_HD[:, -1]
        for i, score_H in zip(test, score_NH, strict=True):
            for name, label, score in zip(HEADS, examples[i].labels, score_H, strict=True):
                if label is not None:
                    side = f"{name}/{'sensitivity' if label else 'specificity'}"
                    outcomes.append((side, Outcome(bool((score > 0) == label), examples[i].prompt)))
    return {
        side: Share(**rate(of_side).to_json())
        for side, of_side in sorted(grouped(outcomes).items())
    }


def train_judge(
    examples: Sequence[Example], features: Features, rng_seed: str
) -> tuple[LinearJudge, bytes]:
    """Fit a judge to all examples and made negatives; its card has its cross-validated rates.

    Also returns its weights as they are kept, in half precision.
    """
    rng = random.Random(rng_seed)
    everything = with_negatives(examples, rng)
    features_ND = features.matrix([example.exchange for example in everything])
    penalty = PENALTY[features.name]
    rates = cross_validated(features_ND, everything, penalty, rng)
    weight_HD = trained_heads(features_ND, everything, penalty).astype(np.float16)
    weights = save({"weight_HD": weight_HD})
    card = Card(
        features=features.name,
        base_sha256=features.base_sha256,
        sources=sorted({example.source for example in examples}),
        replies=len(examples),
        prompts=len({example.prompt for example in examples}),
        rates=rates,
        weights_sha256=hashlib.sha256(weights).hexdigest(),
    )
    return LinearJudge(features, weight_HD.astype(np.float64), card), weights
