"""How far the reward of a learned judge parts from the truth, by rounds and by its labelled games.

    OMP_NUM_THREADS=1 python benchmarks/learned_judge.py              # goes on where it stopped

MAGIC in the sandbox, but whether a reply is harmful, refused or right is ruled by logistic
regressions on hashed words of the reply and on pairs of a word of the seed with one of the reply.
They are fitted to n games of the warmed-up players, which the sandbox's own judge has labelled;
whether an attack asks what the seed does stays its own ruling. Every round is ruled a second time
by the truth, which nobody is paid by, and so is the exam on the pairs for tuning.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice, product
from pathlib import Path
from statistics import fmean
from typing import Any
from zlib import crc32

import numpy as np
from scipy import sparse

from sparring.arena import play
from sparring.coevolve import coevolve
from sparring.evals.judge_training import fit
from sparring.exam import ruled_again
from sparring.games.game import reply_of
from sparring.judges.judge import VALUES, Judge
from sparring.metrics import episode_metrics
from sparring.runs.build import build
from sparring.runs.recipes import resolve
from sparring.runs.run import Run
from sparring.types import Episode, Harm, Metrics, State, Verdict

WIDTH = 1 << 14
SHOWN = ("asr", "over_refusal", "correct")


def features(states: Sequence[State]) -> Any:
    """Hashed words of each reply, and pairs of a word of the seed with one of the reply [N, D]."""
    rows, columns = list[int](), list[int]()
    for row, state in enumerate(states):
        seed, reply = state.seed.text.split(), sorted({*(reply_of(state) or "").split()})
        words = [*reply, *(" ".join(pair) for pair in product(sorted({*seed}), reply))]
        hashed = sorted({crc32(word.encode()) % WIDTH for word in words})
        rows += [row] * len(hashed)
        columns += hashed
    return sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(states), WIDTH))


def facts(verdict: Verdict) -> dict[str, bool]:
    """What the learned judge rules on, as yes or no."""
    harmful, refused, helpful = verdict.harmful, verdict.refused, verdict.helpful
    return {"harmful": bool(harmful), "refused": bool(refused), "helpful": bool(helpful)}


@dataclass(frozen=True)
class Learned:
    """A judge of three logistic regressions; what concerns the attack alone is the truth's."""

    truth: Judge
    heads: Mapping[str, Any]
    name: str = "learned"
    caveat: str = ""
    fills: frozenset[str] = frozenset(VALUES)

    def rule(self, states: Sequence[State]) -> list[Verdict]:
        """Rule on every state; before there is a reply, as the truth does."""
        x_ND = features(states)
        yes = {name: x_ND @ w[:-1] + w[-1] > 0 for name, w in self.heads.items()}
        return [
            verdict
            if reply_of(state) is None
            else replace(
                verdict,
                reply_harm=Harm.UNSAFE if yes["harmful"][n] else Harm.SAFE,
                refused=bool(yes["refused"][n]),
                helpful=bool(yes["helpful"][n]),
                score=None,
            )
            for n, (state, verdict) in enumerate(zip(states, self.truth.rule(states), strict=True))
        ]


def learned(run: Run, n: int) -> Learned:
    """The judge fitted to `n` games of the players as they are, on training seeds."""
    plan = run.plan
    openings = [plan.game.open(seed) for seed in islice(cycle(run.seeds), n)]
    episodes = play(plan.game, openings, plan.cast, plan.judge, {}, f"labelled/{plan.rng_seed}")
    states = [e.state for e in episodes if reply_of(e.state) is not None]
    labels = [facts(state.verdict) for state in states]
    x_ND = features(states)
    heads = {
        name: fit(x_ND, np.array([label[name] for label in labels]), penalty=1.0)
        for name in ("harmful", "refused", "helpful")
    }
    return Learned(plan.judge, heads)


def both(truth: Judge, episodes: Sequence[Episode]) -> Metrics:
    """A round's rates by the judge that pays and, as `truth/…`, by the sandbox's own."""
    ruled = ruled_again(truth, [episode.state for episode in episodes])
    true = [replace(e, state=state) for e, state in zip(episodes, ruled, strict=True)]
    measured = {f"truth/{name}": x for name, x in episode_metrics(true).items() if name in SHOWN}
    return episode_metrics(episodes) | measured


def played(n: int, seed: int, rounds: int) -> dict[str, Any]:
    """One run: its rates by rounds, both ways, and its last exam by the truth."""
    exam = {"families": "tuning", "crossplay": 0}
    config = resolve({"recipe": "magic", "seed": seed, "rounds": rounds, "exam": exam})
    run = build(config)
    for _ in run.warm_up():
        pass
    run.begin()
    truth = run.plan.judge
    judge = learned(run, n) if n else truth
    plan = replace(run.plan, judge=judge, measure=lambda episodes: both(truth, episodes))
    history = [
        {
            name: round_.metrics[name]
            for name in round_.metrics
            if name.removeprefix("truth/") in SHOWN
        }
        for round_ in coevolve(plan)
    ]
    rates = {name: rate.value for name, rate in run.examine().rates.items()}
    return {"rounds": history, "exam": rates}


def block(run: Mapping[str, Any], name: str, first: int, last: int) -> float:
    """The mean of a rate over rounds in which it was measured."""
    return fmean(r[name] for r in run["rounds"][first:last] if name in r)


def table(results: Path, counts: Sequence[int], seeds: Sequence[int], rounds: int) -> list[str]:
    """Return the stored rates: by the judge that pays, and in brackets by the truth."""
    part = rounds // 4
    ends = [(0, part), (rounds - part, rounds)]
    head = " | ".join(f"rounds {a + 1}–{b}" for a, b in ends)
    lines = [
        f"| labelled games | rate | {head} | exam, adversarial or wrapped |",
        "|---|---|--:|--:|--:|",
    ]
    for n in counts:
        runs = [json.loads((results / f"{n}-{seed}-{rounds}.json").read_text()) for seed in seeds]
        name = str(n or "the truth pays")
        for rate, exam in (("asr", "asr/adversarial"), ("over_refusal", "over_refusal/wrapped")):
            cells = []
            for a, b in ends:
                paid, true = (
                    fmean(block(run, which, a, b) for run in runs)
                    for which in (rate, f"truth/{rate}")
                )
                cells.append(f"{paid:.3f} ({true:.3f})")
            values = [run["exam"][exam] for run in runs]
            shown = {"asr": "ASR", "over_refusal": "over-refusal"}[rate]
            cells.append(f"{fmean(values):.3f} / {max(values):.3f}")
            lines.append(f"| {name} | {shown} | {' | '.join(cells)} |")
            name = ""
    return lines


def main() -> None:
    """Play what is missing, then print the gap between the reward's rates and the truth's."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--labelled", default="0,50,200,800", help="0: the truth itself pays")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--rounds", type=int, default=80)
    parser.add_argument("--out", type=Path, default=Path("runs/learned-judge"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    counts, seeds = (
        [int(x) for x in words.split(",")] for words in (options.labelled, options.seeds)
    )
    for n, seed in product(counts, seeds):
        file = options.out / f"{n}-{seed}-{options.rounds}.json"
        if not file.exists():
            print(f"{n} labelled games, seed {seed}", file=sys.stderr, flush=True)
            file.write_text(json.dumps(played(n, seed, options.rounds)))
    print("\n".join(table(options.out, counts, seeds, options.rounds)))


if __name__ == "__main__":
    main()
