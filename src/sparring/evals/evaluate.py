"""Plays an evaluation from its first sample to its last; what is on disk is not played again."""

import gc
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count

from sparring.arena import Cast, opening_names, play_named
from sparring.evals.folder import EvalDir, EvalSpec, Key, Overlap, key_of, keyed, row_of
from sparring.evals.models import Candidate, ModelSettings, attacker_of, candidates
from sparring.evals.overlap import training_overlap
from sparring.evals.tasks import Suite, TaskSettings, load_suite, world_of
from sparring.evals.utility import measure_utility
from sparring.exam import ruled_again
from sparring.games.codec import verdict_of
from sparring.games.dialogue import Dialogue
from sparring.games.game import Game, answer_of
from sparring.games.payoffs import MAGIC, LabelPayoff
from sparring.judges.judge import describe
from sparring.players.player import Policy, Request, Sampling
from sparring.pulse import phase
from sparring.runs.sources import packaged_briefs
from sparring.runs.train import Interrupted, signals
from sparring.sandbox.world import World
from sparring.store.files import Journal, Row
from sparring.store.folder import RunDir
from sparring.types import Completion, Move, Player, State, Status, UnscoredError, UsageError

Sets = Mapping[str, Sequence[Sequence[State]]]
"""The openings of every draw, by set: equal in all draws, unless an attacker wrote them anew."""


@dataclass(frozen=True, slots=True)
class ItemBatch:
    """Some openings of one draw of a set: (place, name in the whole set, opening).

    Every random number follows from `rng_seed`; for the first draw it is that of a run's exam.
    """

    set: str
    draw: int
    items: Sequence[tuple[int, str, State]]
    rng_seed: str

    def keys(self, model: str) -> list[Key]:
        """Return the keys of the samples that a model gives of this batch."""
        return [(model, self.set, place, self.draw) for place, _, _ in self.items]


@dataclass(frozen=True)
class Evaluation:
    """Candidates that are measured by one suite; `batch` openings are played at a time.

    A kill loses at most the batch under way, so `batch` is also the most that is played twice.
    A trained attacker as `rewriter` rewrites seeds in the game that stands beside it. `overlap`
    says which prompts were trained on, where that is known. `world` is there in the sandbox.
    """

    suite: Suite
    candidates: Sequence[Candidate]
    sampling: Sampling
    rewriter: tuple[Candidate, Game] | None = None
    batch: int = 32
    seed: int = 0
    notes: Sequence[str] = ()
    overlap: Overlap | None = None
    world: World | None = None

    @property
    def spec(self) -> EvalSpec:
        """Everything that the samples depend on."""
        suite, sampling = self.suite, asdict(self.sampling)
        return EvalSpec(
            models=[candidate.card for candidate in self.candidates],
            sheet=suite.sheet,
            judge=describe(suite.judge).to_json(),
            second=describe(suite.second).to_json() if suite.second else None,
            sampling={k: v for k, v in sampling.items() if v != {} and k != "batch_tokens"},
            attacker=self.rewriter[0].card if self.rewriter else None,
            seed=self.seed,
        )

    def batches(self, sets: Sets) -> Iterator[ItemBatch]:
        """Yield every opening once, always in the same batch.

        The other rows of a batch can change the last bits of a completion, so batches never vary.
        Seed 0 draws the same random numbers as a run's own exams.
        """
        root = f"exam/{self.seed}" if self.seed else "exam"
        for name, draws in sets.items():
            for draw, openings in enumerate(draws):
                rng_seed = f"{root}/{name}" + (f"/draw {draw}" if draw else "")
                items = [*zip(count(), opening_names(openings), openings, strict=False)]
                for start in range(0, len(items), self.batch):
                    yield ItemBatch(name, draw, items[start : start + self.batch], rng_seed)


def prepared(
    tasks: TaskSettings, models: ModelSettings, attacker: RunDir | None, batch: int, seed: int
) -> Evaluation:
    """Read the tasks and find the models; nothing is loaded yet."""
    if models.sampling.temperature == 0 and tasks.epochs > 1:
        raise UsageError("--epochs: at temperature 0 every epoch would be the first one again")
    suite = load_suite(tasks, models.models[0])
    rewriter = attacker_of(attacker) if attacker else None
    tested, notes = candidates(models)
    sets = {name: draws[0] for name, draws in {**suite.dealt, **suite.undealt}.items()}
    shared, more = training_overlap(sets, models)
    notes += more
    world = world_of(models.models[0])
    return Evaluation(suite, tested, models.sampling, rewriter, batch, seed, notes, shared, world)


AskBatch = Callable[[Policy, ItemBatch], list[Row]]
"""Turns a batch into a model's samples."""


def run(
    evaluation: Evaluation, folder: EvalDir, retry_unscored: bool = False, utility: bool = False
) -> list[str]:
    """Play whatever is not on disk, and journal it batch by batch; return notes for people.

    With `retry_unscored` the samples whose model or judge failed are played anew, with `utility`
    lm-evaluation-harness asks the models what they are still good for. Raises Interrupted
    after a signal; an outage of the judge or the server is an UnscoredError. Both leave the
    evaluation resumable.
    """
    with folder.writing(evaluation.spec):
        folder.keep_overlap(evaluation.overlap)
        if retry_unscored:
            folder.samples.replace([row for row in folder.samples.rows() if not _failed(row)])
        try:
            with signals() as received:
                _play(evaluation, folder, received)
                models, world = evaluation.candidates, evaluation.world
                ask = measure_utility if utility else lambda *_: list[str]()
                notes = ask(models, world, folder, received)
        except (Interrupted, UnscoredError) as error:
            folder.set_status("stopped" if isinstance(error, UnscoredError) else "interrupted")
            raise
        folder.set_status("complete")
    return notes


def _play(evaluation: Evaluation, folder: EvalDir, received: Sequence[int]) -> None:
    suite = evaluation.suite
    sets: Sets = suite.dealt
    if evaluation.rewriter and suite.undealt:
        candidate, game = evaluation.rewriter
        split = list(evaluation.batches(suite.undealt))
        _collect(candidate, split, folder.attacks, partial(rewrites, game), received)
        sets = {**suite.dealt, **_rewritten(suite.undealt, folder.attacks)}
    split = list(evaluation.batches(sets))
    for model in evaluation.candidates:
        _collect(model, split, folder.samples, partial(replies, suite, model.name), received)


def _collect(
    model: Candidate,
    batches: Sequence[ItemBatch],
    journal: Journal,
    ask: AskBatch,
    received: Sequence[int],
) -> None:
    """Journal every sample of a model that is missing; a model is loaded only if one is.

    Interrupted after the batch in which a signal was received.
    """
    there = {key_of(row) for row in journal.rows()}
    keys = {key for batch in batches for key in batch.keys(model.name)}
    done = len(keys & there)
    phase(model.name, done, len(keys))
    due = [batch for batch in batches if not there.issuperset(batch.keys(model.name))]
    if not due:
        return
    policy = model.load()
    for batch in due:
        new = [row for row in ask(policy, batch) if key_of(row) not in there]
        journal.append(new)
        done += len(new)
        phase(model.name, done, len(keys))
        if received:
            raise Interrupted(received[0])
    del policy
    gc.collect()
    if torch := sys.modules.get("torch"):
        torch.cuda.empty_cache()


def _failed(row: Row) -> bool:
    verdicts = [row[name] for name in ("verdict", "second") if row.get(name)]
    return any(verdict_of(verdict).status is not Status.OK for verdict in verdicts)


def replies(suite: Suite, model: str, policy: Policy, batch: ItemBatch) -> list[Row]:
    """Play a batch's openings to their end; return their moves and verdicts as rows."""
    examiner = {Player.ATTACKER: suite.examiner} if suite.examiner else {}
    cast: Cast = {Player.DEFENDER: policy, **examiner}
    game = Dialogue(LabelPayoff(MAGIC), packaged_briefs(), gate=False, exchanges=2)
    openings = {name: opening for _, name, opening in batch.items}
    episodes = play_named(game, openings, cast, suite.judge, {}, batch.rng_seed)
    states = [episode.state for episode in episodes]
    judged = [state for state in states if state.rulings and state.moves[-1].sent is not None]
    again = iter(ruled_again(suite.second, judged) if suite.second else ())
    seconds = {id(state): ruling.verdict for state, ruling in zip(judged, again, strict=False)}
    return [
        row_of(key, state, seconds.get(id(state)))
        for key, state in zip(batch.keys(model), states, strict=True)
    ]


def rewrites(game: Game, policy: Policy, batch: ItemBatch) -> list[Row]:
    """Return an attacker's first move on each seed of the batch, with its thought: untrusted."""
    requests = [
        Request(game.observe(state), (f"{batch.rng_seed}/{Player.ATTACKER}/{name}",))
        for _, name, state in batch.items
    ]
    keys, completions = batch.keys(Player.ATTACKER), policy.sample(requests)
    return [
        {**keyed(key), "text": completion.text, "status": completion.status}
        for key, [completion] in zip(keys, completions, strict=True)
    ]


def _rewritten(undealt: Sets, attacks: Journal) -> Sets:
    """The openings that rewrites make of seeds; a rewrite that does not parse is never sent."""
    rows = {key_of(row): row for row in attacks.rows()}

    def opening(state: State, row: Row) -> State:
        text = str(row["text"])
        if (attack := answer_of(text)) is not None:
            return State(state.seed).deal(Player.ATTACKER, attack)
        unsent = Completion(text, status=Status(row.get("status", Status.OK)))
        return State(state.seed, (Move(Player.ATTACKER, (), unsent, None),))

    return {
        name: [
            [opening(state, rows[Player.ATTACKER, name, i, draw]) for i, state in enumerate(states)]
            for draw, states in enumerate(draws)
        ]
        for name, draws in undealt.items()
    }
