"""An evaluation from its first sample to its last: whatever is on disk is not asked again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol

from sparring.evals.folder import EvalDir, Row, Samples, key_of
from sparring.evals.models import ATTACKER, Attacker, Candidate, dealt
from sparring.evals.paper import Asking, Batch, Paper, Sets, batches
from sparring.games.codec import verdict_of
from sparring.judges.judge import describe
from sparring.players.player import Sampling
from sparring.runs.train import Interrupted, signals
from sparring.types import Player, Status, UnscoredError

Progress = Callable[[str, int, int], None]
"""Told who is asked, how many of its samples are there, and of how many."""


class Asker(Protocol):
    """Who turns a batch into samples."""

    def ask(self, batch: Batch) -> list[Row]: ...


@dataclass(frozen=True)
class Evaluation:
    """Candidates that sit one paper; `batch` openings are asked at a time.

    A kill loses at most the batch under way, so `batch` is also the most that is asked twice.
    """

    paper: Paper
    candidates: Sequence[Candidate]
    sampling: Sampling
    attacker: Attacker | None = None
    batch: int = 32
    seed: int = 0

    def asked(self) -> dict[str, Any]:
        """What the samples depend on, as plain data: the same question has the same answer here."""
        sampling = {k: v for k, v in asdict(self.sampling).items() if k != "batch_tokens"}
        return {
            "models": [candidate.card() for candidate in self.candidates],
            "sheet": self.paper.sheet.to_json(),
            "judge": describe(self.paper.judge).to_json(),
            "second": describe(self.paper.second).to_json() if self.paper.second else None,
            "sampling": sampling,
            "attacker": self.attacker.card() if self.attacker else None,
            "seed": self.seed,
        }

    @property
    def rng_seed(self) -> str:
        """The first seed's addresses are those of a run's own exams."""
        return f"exam/{self.seed}" if self.seed else "exam"


def run(told: Evaluation, folder: EvalDir, progress: Progress, again: bool = False) -> None:
    """Ask whatever is not on disk. Raises Interrupted after a signal, everything asked being kept.

    With `again` the samples whose model or judge failed are asked anew.
    An outage of the judge or the server (UnscoredError) leaves it resumable too.
    """
    with folder.writing(told.asked()), signals() as received:
        if again:
            _forget_unscored(folder)
        try:
            sets = told.paper.plain
            if told.attacker and told.paper.undealt:
                due = _Due(ATTACKER, told.paper.undealt, folder.attacks, told)
                due.asked(told.attacker.open, received, progress)
                texts = {key_of(row): str(row["text"]) for row in folder.attacks.rows()}
                sets = {**sets, **dealt(told.paper.undealt, texts)}
            for candidate in told.candidates:
                due = _Due(candidate.name, sets, folder.samples, told)
                due.asked(partial(_seated, candidate, told.paper), received, progress)
        except Interrupted:
            folder.set_status("interrupted")
            raise
        except UnscoredError:
            folder.set_status("stopped")
            raise
        folder.set_status("complete")


@contextmanager
def _seated(candidate: Candidate, paper: Paper) -> Iterator[Asker]:
    with candidate.open() as policy:
        cast = {Player.DEFENDER: policy}
        if paper.examiner:
            cast[Player.ATTACKER] = paper.examiner
        yield Asking(candidate.name, cast, paper.judge, paper.second)


@dataclass(frozen=True)
class _Due:
    """What one model is asked, and where its samples go."""

    model: str
    sets: Sets
    samples: Samples
    told: Evaluation

    def asked(
        self,
        opened: Callable[[], AbstractContextManager[Asker]],
        received: Sequence[int],
        progress: Progress,
    ) -> None:
        """Ask every batch of which a sample is missing; nobody is opened for nothing."""
        there = {key_of(row) for row in self.samples.rows()}
        everything = list(batches(self.sets, self.told.batch, self.told.rng_seed))
        total = sum(len(batch.openings) for batch in everything)
        due = [batch for batch in everything if not there.issuperset(batch.keys(self.model))]
        done = total - sum(len({*b.keys(self.model)} - there) for b in due)
        progress(self.model, done, total)
        if not due:
            return
        with opened() as asker:
            for batch in due:
                if received:
                    raise Interrupted(received[0])
                new = [row for row in asker.ask(batch) if key_of(row) not in there]
                self.samples.append(new)
                done += len(new)
                progress(self.model, done, total)
        if received:
            raise Interrupted(received[0])


def _forget_unscored(folder: EvalDir) -> None:
    failed = {key_of(row) for row in folder.samples.rows() if _failed(row)}
    if failed:
        folder.samples.without(failed)


def _failed(row: Row) -> bool:
    told = [row[name] for name in ("verdict", "second") if row.get(name)]
    return any(verdict_of(one).status is not Status.OK for one in told)
