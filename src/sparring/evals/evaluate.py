"""An evaluation from its first sample to its last: whatever is on disk is not asked again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial

from sparring.arena import Cast, opening_names, play_named
from sparring.evals.folder import EvalDir, EvalSpec, Key, key_of, row_of
from sparring.evals.models import Attacker, Candidate
from sparring.evals.tasks import Suite
from sparring.exam import ruled_again
from sparring.games.codec import verdict_of
from sparring.games.dialogue import Dialogue
from sparring.games.game import Game, answer_of
from sparring.games.payoffs import MAGIC, LabelPayoff
from sparring.judges.judge import Judge, describe
from sparring.judges.panel import Wrapped
from sparring.players.player import Policy, Request, Sampling
from sparring.runs.sources import packaged_briefs
from sparring.runs.train import Interrupted, signals
from sparring.store.files import Journal, Row
from sparring.store.folder import write_status
from sparring.types import Completion, Move, Player, Seed, State, Status, UnscoredError, Verdict

ATTACKER = "attacker"
"""The name of the trained attacker among models."""
Sets = Mapping[str, Sequence[Sequence[State]]]
"""By set, the openings of every draw: the same ones again, or each draw's own attacks."""
Progress = Callable[[str, int, int], None]
"""Receives a model's name, how many of its samples there are, and of how many."""


@dataclass(frozen=True)
class Evaluation:
    """Candidates that are measured by one suite; `batch` openings are played at a time.

    A kill loses at most the batch under way, so `batch` is also the most that is played twice.
    """

    suite: Suite
    candidates: Sequence[Candidate]
    sampling: Sampling
    attacker: Attacker | None = None
    batch: int = 32
    seed: int = 0

    @property
    def spec(self) -> EvalSpec:
        """Everything that the samples depend on."""
        suite = self.suite
        sampling = {k: v for k, v in asdict(self.sampling).items() if k != "batch_tokens"}
        return EvalSpec(
            models=[candidate.card() for candidate in self.candidates],
            sheet=suite.sheet,
            judge=describe(suite.judge).to_json(),
            second=describe(suite.second).to_json() if suite.second else None,
            sampling=sampling,
            attacker=self.attacker.card() if self.attacker else None,
            seed=self.seed,
        )

    @property
    def rng_seed(self) -> str:
        """The addresses' first part; seed 0 has the addresses of a run's own exams."""
        return f"exam/{self.seed}" if self.seed else "exam"


@dataclass(frozen=True, slots=True)
class ItemBatch:
    """Some openings of one draw of a set, by place, with their names in the whole set.

    `address` is where their random numbers begin; the first draw's is that of a run's exam.
    """

    set: str
    draw: int
    openings: Mapping[int, State]
    names: Sequence[str]
    address: str

    def keys(self, model: str) -> list[Key]:
        """Return the keys of the samples that a model gives of this batch."""
        return [(model, self.set, place, self.draw) for place in self.openings]


AskBatch = Callable[[ItemBatch], list[Row]]
"""Turns a batch into samples."""


def batches(sets: Sets, size: int, rng_seed: str) -> Iterator[ItemBatch]:
    """Yield every opening once, always in the same batch.

    What a completion was sampled beside can change its last bits.
    """
    for name, draws in sets.items():
        for draw, openings in enumerate(draws):
            names = opening_names(openings)
            address = f"{rng_seed}/{name}" + (f"/draw {draw}" if draw else "")
            for start in range(0, len(openings), size):
                places = range(start, min(start + size, len(openings)))
                part = {place: openings[place] for place in places}
                yield ItemBatch(name, draw, part, names[start : start + size], address)


def run(
    evaluation: Evaluation, folder: EvalDir, progress: Progress, retry_unscored: bool = False
) -> None:
    """Play whatever is not on disk, and journal it batch by batch.

    With `retry_unscored` the samples whose model or judge failed are played anew. Raises
    Interrupted after a signal; an outage of the judge or the server is an UnscoredError. Both
    leave the evaluation resumable.
    """
    with folder.writing(evaluation.spec), signals() as received:
        if retry_unscored:
            scored = [row for row in folder.samples.rows() if not _failed(row)]
            folder.samples.replace(scored)

        def beat(model: str, done: int, total: int) -> None:
            progress(model, done, total)
            if received:
                raise Interrupted(received[0])

        def split(sets: Sets) -> list[ItemBatch]:
            return list(batches(sets, evaluation.batch, evaluation.rng_seed))

        suite, attacker = evaluation.suite, evaluation.attacker
        try:
            sets: Sets = suite.dealt
            if attacker and suite.undealt:
                opened = partial(_rewriter, attacker)
                _collect(ATTACKER, split(suite.undealt), folder.attacks, opened, beat)
                sets = {**sets, **_rewritten(suite.undealt, folder.attacks)}
            for candidate in evaluation.candidates:
                opened = partial(_defender, candidate, suite)
                _collect(candidate.name, split(sets), folder.samples, opened, beat)
        except (Interrupted, UnscoredError) as error:
            status = "interrupted" if isinstance(error, Interrupted) else "stopped"
            write_status(folder.folder, status)
            raise
        write_status(folder.folder, "complete")


def _collect(
    model: str,
    everything: Sequence[ItemBatch],
    journal: Journal,
    opened: Callable[[], AbstractContextManager[AskBatch]],
    beat: Progress,
) -> None:
    """Journal every sample of a model that is missing; a model is opened only if one is."""
    there = {key_of(row) for row in journal.rows()}
    total = sum(len(batch.openings) for batch in everything)
    due = [batch for batch in everything if not there.issuperset(batch.keys(model))]
    done = total - sum(len({*batch.keys(model)} - there) for batch in due)
    beat(model, done, total)
    if due:
        with opened() as ask:
            for batch in due:
                new = [row for row in ask(batch) if key_of(row) not in there]
                journal.append(new)
                done += len(new)
                beat(model, done, total)


def _failed(row: Row) -> bool:
    verdicts = [row[name] for name in ("verdict", "second") if row.get(name)]
    return any(verdict_of(verdict).status is not Status.OK for verdict in verdicts)


@contextmanager
def _defender(candidate: Candidate, suite: Suite) -> Iterator[AskBatch]:
    with candidate.open() as policy:
        cast: dict[Player, Policy] = {Player.DEFENDER: policy}
        if suite.examiner:
            cast[Player.ATTACKER] = suite.examiner
        yield partial(replies, candidate.name, cast, suite)


def replies(model: str, cast: Cast, suite: Suite, batch: ItemBatch) -> list[Row]:
    """Play a batch's openings to their end; return who said what, and the verdicts."""
    game = Dialogue(LabelPayoff(MAGIC), packaged_briefs(), gate=False, exchanges=2)
    openings = dict(zip(batch.names, batch.openings.values(), strict=True))
    episodes = play_named(game, openings, cast, answered(suite.judge), {}, batch.address)
    states = [episode.state for episode in episodes]
    again: Iterator[State] = iter(())
    if suite.second:
        again = iter(ruled_again(answered(suite.second), [s for s in states if s.rulings]))
    return [
        row_of(key, state, next(again).verdict if suite.second and state.rulings else None)
        for key, state in zip(batch.keys(model), states, strict=True)
    ]


def answered(judge: Judge) -> Judge:
    """Return `judge`, except that a game without a reply is unscored by its own failure."""

    def rule(states: Sequence[State]) -> list[Verdict]:
        causes = [_failure(state) for state in states]
        due = [state for state, cause in zip(states, causes, strict=True) if cause is Status.OK]
        verdicts = iter(judge.rule(due) if due else [])
        return [next(verdicts) if cause is Status.OK else Verdict(status=cause) for cause in causes]

    return Wrapped(judge, rule)


def _failure(state: State) -> Status:
    statuses = (move.completion.status for move in state.moves)
    return next((status for status in statuses if status is not Status.OK), Status.OK)


@contextmanager
def _rewriter(attacker: Attacker) -> Iterator[AskBatch]:
    with attacker.open() as (game, policy):
        yield partial(rewrites, game, policy)


def rewrites(game: Game, policy: Policy, batch: ItemBatch) -> list[Row]:
    """Return an attacker's first move on each seed of the batch, with its thought: untrusted."""
    requests = [
        Request(game.observe(state), (f"{batch.address}/{ATTACKER}/{name}",))
        for name, state in zip(batch.names, batch.openings.values(), strict=True)
    ]
    completions = policy.sample(requests)
    names = ("model", "set", "place", "draw", "text")
    return [
        dict(zip(names, (*key, completion.text), strict=True))
        for key, (completion,) in zip(batch.keys(ATTACKER), completions, strict=True)
    ]


def _rewritten(undealt: Sets, attacks: Journal) -> Sets:
    """The openings that rewrites make of seeds."""
    texts = {key_of(row): str(row["text"]) for row in attacks.rows()}
    return {
        name: [
            [
                _opening(state.seed, texts[ATTACKER, name, place, draw])
                for place, state in enumerate(states)
            ]
            for draw, states in enumerate(draws)
        ]
        for name, draws in undealt.items()
    }


def _opening(seed: Seed, text: str) -> State:
    """A rewrite that was sent; one that does not parse is never sent, and its game is over."""
    attack = answer_of(text)
    if attack is None:
        return State(seed, (Move(Player.ATTACKER, (), Completion(text), None),))
    return State(seed).deal(Player.ATTACKER, attack)
