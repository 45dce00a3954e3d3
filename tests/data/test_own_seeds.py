"""The shipped contrast pairs: whole, apart across splits, and not told apart by their words."""

import re
from functools import cache
from itertools import chain, combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.sparse import csr_array
from scipy.stats import mannwhitneyu

import sparring
from sparring.data.readers import gathered, read
from sparring.data.splits import plain

OWN = Path(sparring.__file__).parent / "data" / "own"
PAIRS = {"train": 940, "tuning": 60, "held_out": 120}
SPLITS = {name: read(f"own:{name}").seeds for name in PAIRS}
SEEDS = [*chain(*SPLITS.values())]
PUBLISHED = next((p for up in Path(__file__).parents if (p := up / "shared/data").is_dir()), Path())


@cache
def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def likeness(text: str, other: str) -> float:
    a, b = set(words(text)), set(words(other))
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("name", PAIRS)
def test_a_split_holds_whole_pairs_of_a_harmful_and_a_benign_request(name):
    assert len(SPLITS[name]) == 2 * PAIRS[name]
    for first, second in zip(SPLITS[name][::2], SPLITS[name][1::2], strict=True):
        assert (first.harmful, second.harmful, second.cluster) == (True, False, first.cluster)
        assert (first.id, second.id) == (f"{first.cluster}-harmful", f"{first.cluster}-benign")
        assert first.category == second.category == first.cluster.rsplit("-", 1)[0]


def test_every_category_is_in_every_split_and_no_pair_in_two():
    categories = {frozenset(seed.category for seed in seeds) for seeds in SPLITS.values()}
    assert [*map(len, categories)] == [12]
    assert (
        len({seed.cluster for seed in SEEDS})
        == len({seed.id for seed in SEEDS}) / 2
        == sum(PAIRS.values())
    )
    assert gathered([{"path": OWN / f"{name}.jsonl"} for name in PAIRS])[0] == SEEDS


def test_requests_are_short_and_no_two_pairs_resemble_each_other():
    assert {len(seed.text.split()) for seed in SEEDS} <= set(range(5, 26))
    assert len({plain(seed.text) for seed in SEEDS}) == len(SEEDS)
    for a, b in combinations(SEEDS, 2):
        assert a.cluster == b.cluster or likeness(a.text, b.text) < 0.5, (a.id, b.id)


@pytest.mark.parametrize("name", ["harmbench*.csv", "strongreject*.csv", "xstest*.json"])
def test_no_request_resembles_one_of_a_published_set(name):
    if not (paths := [*PUBLISHED.glob(name)]):
        pytest.skip(f"NOT TESTED: no {name} in shared/data, so overlap with it is unproven")
    texts = {text for s in read(paths[0]).seeds for text in (s.text, s.goal) if text}
    closest = max(likeness(seed.text, text) for seed in SEEDS for text in texts)
    shared = len({plain(text) for text in texts} & {plain(seed.text) for seed in SEEDS})
    assert (shared, closest < 0.5) == (0, True)  # numbers only: a failed assertion is printed


def fitted(X_NV: csr_array, sign_N: np.ndarray) -> np.ndarray:  # logistic regression, L2, C = 1
    def loss(w_V: np.ndarray) -> tuple[float, np.ndarray]:
        margin_N = sign_N * (X_NV @ w_V)
        slope_V = w_V - X_NV.T @ (sign_N / (1 + np.exp(margin_N)))
        return np.logaddexp(0, -margin_N).sum() + w_V @ w_V / 2, slope_V

    return minimize(loss, np.zeros(X_NV.shape[1]), jac=True, method="L-BFGS-B").x


def test_a_bag_of_words_hardly_tells_harmful_from_benign():
    """Counts of words and of two in a row; ten folds, both members of a pair in one."""
    texts = (words(seed.text) for seed in SEEDS)
    grams = [["bias:", *text, *map(" ".join, pairwise(text))] for text in texts]
    columns = np.unique([*chain(*grams)], return_inverse=True)[1]
    X_NV = csr_array((np.ones(len(columns)), columns, np.cumsum([0, *map(len, grams)])))
    sign_N, score_N = np.where([seed.harmful for seed in SEEDS], 1, -1), np.zeros(len(SEEDS))
    for fold in range(10):
        held_N = np.arange(len(SEEDS)) // 2 % 10 == fold
        score_N[held_N] = X_NV[held_N] @ fitted(X_NV[~held_N], sign_N[~held_N])
    auc = mannwhitneyu(score_N[sign_N > 0], score_N[sign_N < 0]).statistic / (len(SEEDS) / 2) ** 2
    print(f"AUC of words: {auc:.3f}")
    assert auc <= 0.70
