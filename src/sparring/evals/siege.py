"""A siege: families of attacks on one finished defender, in one table, the worst first."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from sparring.arena import play_named
from sparring.door import MANIFEST, inside, reading, sha256
from sparring.evals.attack import LED, OF_WEIGHTS, Attack, Effort, Family, families
from sparring.evals.exploit import ATTACKERS, OWN_MODELS, Exploit, Target
from sparring.evals.folder import key_of, row_of
from sparring.evals.models import Candidate, ModelSettings, candidates
from sparring.evals.searches import Hunt, attacked, continued
from sparring.games.codec import state_of
from sparring.games.dialogue import Dialogue
from sparring.games.game import tagged
from sparring.games.payoffs import MAGIC, LabelPayoff
from sparring.judges.judge import Judge, describe
from sparring.players.local import LocalPolicy
from sparring.runs.models import model_path
from sparring.runs.sources import packaged_briefs
from sparring.runs.train import signals
from sparring.sandbox.model import CARD, language_of
from sparring.sandbox.world import World
from sparring.store.files import Journal, digest, dumps, sweep
from sparring.store.folder import Folder
from sparring.store.records import AttackedBy, AttackerCurve, AttackResults, ExploitResults
from sparring.types import Player, Seed, State, UsageError

TRIED = 4
"""Seeds by which the time of a siege is estimated."""


@dataclass(frozen=True)
class Defender:
    """A finished defender: what it is, the target it makes, and where its attacks are written.

    Only runs have what follows: `learned` trains an attacker on it by name, with randomness from a
    seed, and `evidence` writes a file that the run's report reads.
    """

    card: Mapping[str, Any]
    target: Target
    world: World | None
    folder: Path
    learned: Callable[[str, int], AttackerCurve] | None = None
    evidence: Callable[[str, bytes], None] | None = None

    def first(self, limit: int | None) -> "Defender":
        """Return the same with the first held-out seeds alone, for all but attackers that learn."""
        held_out = self.target.held_out[:limit]
        return replace(self, target=replace(self.target, held_out=held_out))

    def place(self, kind: str, *more: object) -> Path:
        """Return the folder of one kind of attack; what it depends on distinguishes folders."""
        seeds = [seed.to_json() for seed in self.target.held_out]
        spec = [dict(self.card), describe(self.target.judge).to_json(), seeds, *more]
        self.folder.mkdir(parents=True, exist_ok=True)
        return inside(self.folder, f"{kind}-{digest(spec, 12)}")


def of_run(exploit: Exploit) -> Defender:
    """Return the defender of a run, in MAGIC's gated game, and attackers that learn against it.

    UsageError where the run names endpoints or secrets that are not trusted.
    """
    run = exploit.run
    built = exploit.built()

    def learned(name: str, rng_seed: int) -> AttackerCurve:
        measured = replace(exploit, rng_seed=rng_seed).measure([name])
        return ExploitResults.model_validate(measured).attackers[name]

    manifest = sha256(inside(run.checkpoints.path(exploit.number), MANIFEST))
    card = {"run": run.folder.name, "rounds": exploit.number, "manifest_sha256": manifest}
    target, folder = exploit.frozen(built), run.path("evidence")
    return Defender(card, target, built.world, folder, learned, run.evidence.write)


def of_model(settings: ModelSettings, judge: Judge | None, seeds: Sequence[Seed]) -> Defender:
    """Return a model under test, perhaps with an adapter or behind a URL, in a game without a gate.

    A sandbox base brings its judge and its held-out seeds.
    """
    models, _ = candidates(settings)
    path, world, briefs = Path(model_path(settings.models[0])), None, packaged_briefs()
    if (path / CARD).is_file() and not settings.base_url:
        world = World(language_of(path))
        judge, briefs = world.judge, world.briefs
        seeds = world.seeds(world.held_out)
    harmful = [seed for seed in seeds if seed.harmful]
    if judge is None or not harmful:
        raise UsageError("--seeds, --judge: a model that is no run needs both, and harmful seeds")
    if missing := {"reply_harm"} - judge.fills:
        raise UsageError(f"--judge: {judge.name} does not fill {', '.join(missing)}")
    policy = models[-1].load()
    local = policy if isinstance(policy, LocalPolicy) else None
    game = Dialogue(LabelPayoff(MAGIC), briefs, gate=False)
    card = {**models[-1].card, "sampling": asdict(settings.sampling)}
    return Defender(card, Target(game, judge, policy, (), harmful, local), world, Path("attacks"))


@dataclass(frozen=True)
class Siege:
    """Families of attacks on one defender; each is written as it is done, and not played again.

    `names` are those of `families` and of `exploit`'s attackers, which are tried `restarts` times.
    """

    defender: Defender
    names: Sequence[str]
    effort: Effort
    leader: Candidate | None = None
    rng_seed: int = 0
    restarts: int = 3

    @cached_property
    def folder(self) -> Path:
        """The folder of this measurement; other settings have another."""
        leader = dict(self.leader.card) if self.leader else None
        return self.defender.place("attack", asdict(self.effort), self.rng_seed, leader)

    @cached_property
    def families(self) -> Mapping[str, Family]:
        """The families that do not learn, that are named, and that can be played here."""
        defender = self.defender
        leader = self.leader.load() if self.leader else None
        there = families(defender.target, defender.world, leader, self.effort)
        return {name: family for name, family in there.items() if name in self.names}

    def run(self) -> AttackResults:
        """Play what is missing; the result is written to `attack.json` after every family.

        It stops at a signal with Interrupted; after that, or a kill, the same call goes on.
        """
        self.folder.mkdir(exist_ok=True)
        with Folder(self.folder).locked():
            sweep(self.folder)
            before = AttackResults.read_if_there(inside(self.folder, "attack.json"))
            results = dict(before.families) if before else {}
            for name in self.families:
                with signals("") as received:
                    results[name] = self._attack(name).run(received)
                self._write(results)
            # The last one to learn is what `exploit` alone would have trained, and leaves its file.
            for restart, name in product(reversed(range(self.restarts)), self._learners):
                assert self.defender.learned
                curve = self.defender.learned(name, self.rng_seed + restart)
                results[f"{name} {restart + 1}"] = _learned_by(curve)
                self._write(results)
            return self._write(results)

    def left_out(self) -> dict[str, str]:
        """Return the families that are named and cannot be played here, with the reason."""
        reasons = dict[str, str]()
        for name in self.names:
            if name in self.families or name in self._learners:
                continue
            if name in LED:
                reasons[name] = "needs --leader, a chat model that writes attacks"
            elif name in OF_WEIGHTS:
                thinks = "a defender that does not think first"
                weights = "the defender's weights in this process"
                reasons[name] = f"needs {thinks if self.defender.target.thinks else weights}"
            else:
                reasons[name] = "needs a run" + ("" if name in OWN_MODELS else " in the sandbox")
        return reasons

    def cost(self) -> str:
        """Estimate the time of the families that do not learn, from a query about a few seeds."""
        seeds, queries = len(self.defender.target.held_out), self.effort.queries
        due = [name for name in self.families if not self._attack(name).journal.path.is_file()]
        if not due:
            return ""
        trial = replace(self._attack(due[0]), effort=replace(self.effort, queries=1))
        tried = trial.hunts()[:TRIED]
        began = time.perf_counter()
        trial.answered(tried, range(len(tried)))
        seconds = (time.perf_counter() - began) / len(tried) * len(due)
        if "gradient" in due:
            search = self.families["gradient"].search
            search.openings(tried[:1])  # the first one also looks at every word of the vocabulary
            began = time.perf_counter()
            search.openings(tried[:1])
            seconds += time.perf_counter() - began
        most, minutes = queries * seeds * len(due), seconds * queries * seeds / 60
        plural = "s" if seeds > 1 else ""
        return f"at most {most} queries about {seeds} seed{plural}: about {minutes:.0f} minutes"

    def _attack(self, name: str) -> Attack:
        journal = Journal(inside(self.folder, f"{name}.jsonl"), key_of)
        target, family = self.defender.target, self.families[name]
        return Attack(target, name, family, self.effort, journal, self.rng_seed)

    @property
    def _learners(self) -> list[str]:
        there = ATTACKERS if self.defender.world else OWN_MODELS
        return [name for name in there if name in self.names and self.defender.learned]

    def _write(self, results: Mapping[str, AttackedBy]) -> AttackResults:
        worst_first = sorted(results.items(), key=lambda item: -item[1].most)
        result = AttackResults(
            defender=dict(self.defender.card),
            rng_seed=self.rng_seed,
            effort=asdict(self.effort),
            families=dict(worst_first),
            left_out=self.left_out(),
        )
        result.write(self.folder / "attack.json")
        if self.defender.evidence:
            self.defender.evidence("evidence/attack.json", dumps(result.to_json()))
        return result


def _learned_by(curve: AttackerCurve) -> AttackedBy:
    """What an attacker that learns reached, as a row of the table."""
    about = f"{curve.tried}, after {curve.steps[-1]} steps"
    return AttackedBy(about=about, asr={"1": curve.asr[-1]})


@dataclass
class Person:
    """A person who attacks: what is typed is sent, judged and written as a search's queries are."""

    target: Target
    journal: Journal
    hunts: list[Hunt] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hunts = [Hunt(seed) for seed in self.target.held_out]
        with reading(self.journal.path):
            for row in self.journal.rows():
                self.hunts[key_of(row)[2]].games.append(state_of(row))

    def send(self, place: int, text: str, talk: State | None) -> State:
        """Send a message, which opens a talk or goes on with one, and return the game so far."""
        hunt = self.hunts[place]
        opening = continued(talk, text) if talk else attacked(hunt.seed, text)
        named, cast = (
            {f"{place}/{len(hunt.games)}": opening},
            {Player.DEFENDER: self.target.defender},
        )
        [played] = play_named(self.target.game, named, cast, self.target.judge, {}, "play")
        key = ("person", "harmful", place, len(hunt.games))
        self.journal.append([row_of(key, played.state, None)])
        hunt.games.append(played.state)
        return played.state

    def in_pool(self, game: State) -> dict[str, Any]:
        """Return the line of an attack pool that teaches what worked in a game."""
        messages = [asdict(message) for message in self.target.game.observe(State(game.seed))]
        attack = tagged("a person wrote this", game.moves[0].sent or "")
        return {"messages": [*messages, {"role": "assistant", "content": attack}]}
