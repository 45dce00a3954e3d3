"""A run: its plan, its exam and its rehearsal; what a program may pass as objects."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

from sparring.arena import play
from sparring.coevolve import Plan, coevolve
from sparring.exam import Exam, Result
from sparring.games.game import as_opening, attack_of, reply_of
from sparring.games.payoffs import FunctionPayoff, Payoff
from sparring.judges.judge import FunctionJudge, Judge
from sparring.metrics import distinct_attacks
from sparring.players.ranks import Ranks
from sparring.players.trainer import Trainer
from sparring.pulse import phase
from sparring.runs.models import Loaded
from sparring.sandbox.world import World
from sparring.settings.config import RunConfig
from sparring.settings.sections import PYTHON
from sparring.types import (
    Episode,
    GateError,
    Metrics,
    Player,
    Round,
    Seed,
    State,
    Status,
    UnscoredError,
    UsageError,
)


@dataclass(frozen=True)
class Run:
    """A run that is ready to play.

    `plan` is the game, who plays it and who learns; `exam` is the test beside it, which never
    teaches; `seeds` are those trained on. `warm_up` is phase 1: every step it yields has been
    learned; it yields nothing where there is none. `notes` is what the user should know before the
    run starts. `world` is the sandbox, if the run is played there;
    `strategy` names what the attacker's rewrite in a game became.

    `for round_ in run` plays all of it and writes nothing; `sparring.train(run)` plays it into its
    folder, `config.folder`.
    """

    config: RunConfig
    plan: Plan
    exam: Exam
    seeds: Sequence[Seed]
    warm_up: Callable[[], Iterator[Metrics]]
    notes: Sequence[str] = ()
    world: World | None = None
    strategy: Callable[[State], str] = lambda _: ""

    def __iter__(self) -> Iterator[Round]:
        for _ in self.warm_up():
            pass
        self.begin()
        return coevolve(self.plan)

    @property
    def trainers(self) -> Mapping[Player, Trainer]:
        """The players' weights; with `weights: shared` one trainer serves both."""
        return cast(Mapping[Player, Trainer], self.plan.learners)

    @property
    def ranks(self) -> Ranks:
        """The processes that play the run together."""
        return self.trainers[Player.DEFENDER].optimizer.ranks

    @property
    def owners(self) -> dict[str, Trainer]:
        """Trainers by the folder of their weights in a checkpoint."""
        return {self.config.owner(player).value: t for player, t in self.trainers.items()}

    def recorded_in(self, checkpoint: Callable[[int], Path]) -> None:
        """From here on past selves are read from `checkpoint(rounds)`."""
        for name, trainer in self.owners.items():
            trainer.checkpoint = lambda number, name=name: checkpoint(number) / name

    def begin(self, start: Path | None = None) -> None:
        """RL begins: KL is measured to the present weights, or to those in checkpoint `start`."""
        for name, trainer in self.owners.items():
            trainer.begin(start and start / name)

    def exam_openings(self) -> Mapping[str, Sequence[State]]:
        """The fixed openings of every exam of this run; call it once, after the warm-up.

        Outside the sandbox the warmed-up attacker's rewrites of the held-out seeds join them.
        """
        sets = dict(self.exam.sets)
        for label in ("harmful", "benign") if self.world is None else ():
            plan, plain = self.plan, sets.get(f"{label}/plain", ())
            undealt = [plan.game.open(state.seed) for state in plain]
            rng_seed = f"exam/attacks/{label}"
            phase(f"{label} attacks of the exam", 0, 1)
            episodes = play(plan.game, undealt, plan.cast, plan.judge, {}, rng_seed)
            rewritten = [opening for e in episodes if (opening := as_opening(e.state))]
            sets |= {f"{label}/rewritten": rewritten} if rewritten else {}
            phase(f"{label} attacks of the exam", 1, 1)
        return sets

    def examine(self, exam: Exam | None = None) -> Result:
        """Examine the present defender on the exam's openings; by default those held out."""
        return (exam or self.exam).run({Player.DEFENDER: self.trainers[Player.DEFENDER]})

    def attacked(self) -> list[Seed]:
        """The held-out harmful seeds, each once; UsageError where there are none."""
        seeds = {s.seed.id: s.seed for s in self.exam.sets.get("harmful/plain", ())}
        if not seeds:
            raise UsageError(
                "data.exam: no harmful seed is held out, so nobody can be attacked; the run needs "
                "some in data.exam, or more of them in data.train"
            )
        return list(seeds.values())


def try_functions(run: Run) -> None:
    """Let a judge and a payoff that are functions rule on one game, before a long warm-up.

    UsageError where they return something else than is wanted of them.
    """
    if isinstance(run.plan.judge, FunctionJudge):
        attacked = State(run.seeds[0]).deal(Player.ATTACKER, run.seeds[0].text)
        state = attacked.deal(Player.DEFENDER, "I cannot help with that.")
        [verdict] = run.plan.judge.rule([state])
        run.plan.game.returns(state.rule(verdict))


def rehearse(run: Run, note: Callable[[str], None], warmed: bool = True) -> str:
    """Play the first and the longest seed of each label, two siblings at each fork.

    Returns what came of these games, from which nobody learns; `note` is told what failed in all of
    them, with the settings that cure it. The draws have an address of their own, so a run is the
    same with and without a rehearsal. `warmed` is false where a warm-up is still to teach the form
    of an attack. UnscoredError where the judge could rule on nothing that it was shown.
    """
    game, plain = run.plan.game, run.config.data.as_they_stand == 1.0
    openings = [
        State(seed).deal(Player.ATTACKER, seed.text) if plain else game.open(seed)
        for label in (True, False)
        if (own := [seed for seed in run.seeds if seed.harmful is label])
        for seed in dict.fromkeys((own[0], max(own, key=lambda seed: len(seed.text))))
    ]
    turn = run.plan.schedule(0, ())
    widths = {p: min(2, n) for p, n in turn.widths.items()} if turn else {}
    phase("rehearsal", 0, 1)
    episodes = play(game, openings, run.plan.cast, run.plan.judge, widths, "rehearsal")
    phase("rehearsal", 1, 1)
    _check_judged(run.plan.judge, episodes)
    attacks = distinct_attacks(e for e in episodes if not e.state.dealt)
    parsed = sum(attack_of(state) is not None for state in attacks)
    replies = sum(bool((reply_of(e.state) or "").strip()) for e in episodes)
    scored = [e.returns for e in episodes if e.returns is not None]
    findings = list(_too_long(run, episodes))
    if attacks and not parsed and warmed:
        findings.append(f"none of {len(attacks)} attacks has the form that is asked for: {_PARSES}")
    elif parsed and not replies and any(s.verdict.on_topic is False for s in attacks):
        findings.append(f"no attack that parses asks for what its seed does: {_FAITHFUL}")
    elif not replies and (parsed or not attacks):
        findings.append(f"no reply could be judged, for all were empty or cut: {_REPLIES}")
    elif replies and all(len({r.get(player) for r in scored}) == 1 for player in Player):
        findings.append(f"all {len(scored)} games paid the same: {_DIFFER}")
    for finding in findings:
        note(f"rehearsal: {finding}")
    counts = f"{parsed} of {len(attacks)} attacks parse, {replies} replies"
    return f"{counts}, {len(scored)} of {len(episodes)} games scored"


_PARSES = (
    "give attacker.warm_start an attack pool and warm_up.steps enough to learn its form, take "
    "another attacker, or raise sampling.max_completion_length if its texts are cut"
)
_FAITHFUL = (
    "give attacker.warm_start a pool whose rewrites keep what the seed asks for, see whether the "
    "judge's on_topic is right (`sparring judge probe`), or set game.gate=false"
)
_REPLIES = "see defender.model_name_or_path, or raise sampling.max_completion_length"
_DIFFER = (
    "raise learner.num_generations, give attacker.warm_start a better pool, or see whether the "
    "judge tells the replies apart (`sparring judge probe`)"
)


def _check_judged(judge: Judge, episodes: Sequence[Episode]) -> None:
    played = [
        e.state for e in episodes if all(m.completion.status is Status.OK for m in e.state.moves)
    ]
    causes = Counter(verdict.status for state in played for _, verdict in state.rulings)
    if causes and not causes[Status.OK]:
        [(status, n)] = causes.most_common(1)
        reason = getattr(judge, "reasons", {}).get(status, "")
        raise UnscoredError(
            f"judge: {judge.name} ruled on none of {causes.total()} rehearsed games ({n} times "
            f"{status} {reason}): see judge.kind, judge.model and judge.base_url"
        )


def _too_long(run: Run, episodes: Sequence[Episode]) -> Iterator[str]:
    most = run.config.sampling.max_completion_length
    for player, trainer in run.trainers.items():
        moves = [move for e in episodes for move in e.state.moves if move.player is player]
        longest = max((len(move.completion.prompt_ids) for move in moves), default=0)
        if longest + most > (context := trainer.chat.context):
            yield (
                f"a prompt of the {player} has {longest} tokens and its completion up to {most}, "
                f"which the context of {context} does not hold: lower "
                "sampling.max_completion_length, or leave out the longest seeds"
            )


FRUITLESS_ROUNDS = 5
"""Rounds in which nobody could learn, after which a run is stopped or its user is told."""


def fruitless(rounds: Sequence[Metrics]) -> str:
    """Why nobody can have learned from any of these rounds, with the cure; '' if somebody can."""
    parsed = [metrics["parsed"] for metrics in rounds if "parsed" in metrics]
    if parsed and not any(parsed):
        return f"no attack has parsed: {_PARSES}"
    alike = [m.get(f"{player}/frac_reward_zero_std", 1.0) for m in rounds for player in Player]
    if min(alike, default=0.0) == 1.0:
        return f"nobody had a gradient, for all siblings were paid the same: {_DIFFER}"
    return ""


@dataclass
class Learning:
    """Whether the players can learn, over the metrics of all `rounds`; `note` tells the user."""

    note: Callable[[str], None]
    rounds: list[Metrics]
    stops: bool = True
    warned: bool = False

    def lost(self) -> GateError | None:
        """Says that nobody has been able to learn in any round so far; asked after every fifth.

        Where somebody was able to earlier, the user is told once: many runs end so. So is a run
        that does not stop for it: in hardening, no attacker may ever get through.
        """
        if len(self.rounds) % FRUITLESS_ROUNDS:
            return None
        why, never = fruitless(self.rounds[-FRUITLESS_ROUNDS:]), fruitless(self.rounds)
        if why and not (never and self.stops) and not self.warned:
            self.warned = True
            self.note(
                f"nobody has learned in the last {FRUITLESS_ROUNDS} rounds, which is the rule once "
                f"a run has converged. If it has not: {why}"
            )
        if not (never and self.stops):
            return None
        return GateError(
            f"nobody has learned anything in {len(self.rounds)} rounds, because {never}. Begin a "
            "new run with that; the same command with --resume plays on as it is"
        )


@dataclass(frozen=True)
class Objects:
    """What a program passes as objects in place of settings; a saved configuration says `python`.

    `models` are loaded models with their tokenizers.
    """

    seeds: Sequence[Seed] = ()
    judge: Judge | None = None
    payoff: Payoff | None = None
    models: Loaded = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.seeds or self.judge or self.payoff or self.models)

    @classmethod
    def of(
        cls, defender: Any, attacker: Any, seeds: Any, judge: Any, payoff: Any
    ) -> tuple[Self, dict[str, Any]]:
        """The objects among the arguments of `Recipe.__call__`, and the settings for the rest."""
        tree: dict[str, Any] = {}
        models: dict[Player, tuple[Any, Any]] = {}
        sides = {Player.ATTACKER: attacker, Player.DEFENDER: defender}
        sections = {p: dict(side) for p, side in sides.items() if isinstance(side, Mapping)}
        sides |= {p: section.pop("model_name_or_path", None) for p, section in sections.items()}
        sides[Player.ATTACKER] = sides[Player.ATTACKER] or sides[Player.DEFENDER]
        for player, model in sides.items():
            name = model
            if isinstance(model, tuple):
                models[player], name = model, getattr(model[0], "name_or_path", "") or PYTHON
            named = {"model_name_or_path": str(name)} if name is not None else {}
            if section := named | sections.get(player, {}):
                tree[player.value] = section
        if isinstance(seeds, str | Path):
            seeds, tree["data"] = (), {"train": [{"path": str(seeds)}]}
        elif seeds is not None:
            ids = Counter(seed.id for seed in seeds)
            twice = next((name for name, times in ids.items() if times > 1), None)
            if not ids or twice is not None:
                got = "none" if not ids else f"two with the id {twice!r:.40}"
                raise UsageError(f"seeds: wanted some, each with an id of its own, got {got}")
            tree["data"] = {"train": [{"path": PYTHON}]}
        if isinstance(judge, str):
            judge, tree["judge"] = None, {"kind": judge}
        elif judge is not None:
            if not hasattr(judge, "rule"):
                judge = FunctionJudge(judge, frozenset({"reply_harm", "refused"}))
            tree["judge"] = {"kind": PYTHON, "model": judge.name}
        if payoff is not None:
            payoff = payoff if hasattr(payoff, "needs") else FunctionPayoff(payoff)
            tree["game"] = {"payoff": PYTHON}
        return cls(seeds or (), judge, payoff, models), tree

    def check(self, config: RunConfig) -> None:
        """Refuse a configuration that stands for objects which are not here."""
        stand_ins = {
            "data.train": (any(str(s.path) == PYTHON for s in config.data.train), self.seeds),
            "judge.kind": (any(judge.kind == PYTHON for judge in config.judge), self.judge),
            "game.payoff": (config.game.payoff == PYTHON, self.payoff),
        }
        for player in Player:
            name = config.player(player).model_name_or_path
            stand_ins[f"{player}.model_name_or_path"] = (name == PYTHON, self.models.get(player))
        missing = [name for name, (stands, value) in stand_ins.items() if stands and not value]
        if missing:
            raise UsageError(
                f"{', '.join(missing)}: an object of a Python program stood here; build the run in "
                "that program"
            )
        if config.weights == "separate" and len(self.models) == 2:
            attacker, defender = (model for model, _ in self.models.values())
            if attacker is defender:
                raise UsageError("weights: separate wants two models, and got one twice")
