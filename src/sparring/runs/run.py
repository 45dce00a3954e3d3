"""A run: its plan, its exam and what its user should know; what a program may pass as objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

from sparring.arena import play
from sparring.coevolve import Plan, coevolve
from sparring.exam import Exam, Result
from sparring.games.game import as_opening
from sparring.games.payoffs import FunctionPayoff, Payoff
from sparring.judges.judge import FunctionJudge, Judge
from sparring.players.ranks import Ranks
from sparring.players.trainer import Trainer
from sparring.runs.models import Loaded
from sparring.runs.sources import strategy_of
from sparring.sandbox.world import World
from sparring.settings.config import RunConfig
from sparring.settings.sections import PYTHON
from sparring.types import Metrics, Player, Round, Seed, State, UsageError


@dataclass(frozen=True)
class Run:
    """A run that is ready to play.

    `plan` is the game, who plays it and who learns; `exam` is the test beside it, which never
    teaches; `seeds` are those trained on. `warm_up` is phase 1: every step it yields has been
    learned; it yields nothing where there is none. `notes` is what the user should know before the
    run starts. `world` is the sandbox, if the run is played there.

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
            address = f"exam/attacks/{label}"
            episodes = play(plan.game, undealt, plan.cast, plan.judge, {}, address)
            rewritten = [opening for e in episodes if (opening := as_opening(e.state))]
            sets |= {f"{label}/rewritten": rewritten} if rewritten else {}
        return sets

    def strategy(self, state: State) -> str:
        """What the attacker's rewrite became, by name; '' where nothing can tell."""
        return strategy_of(self.world.language, state) if self.world and not state.dealt else ""

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
        sides = {Player.ATTACKER: attacker or defender, Player.DEFENDER: defender}
        for player, model in sides.items():
            name = model
            if isinstance(model, tuple):
                models[player], name = model, getattr(model[0], "name_or_path", "") or PYTHON
            if name is not None:
                tree[player.value] = {"model_name_or_path": str(name)}
        if isinstance(seeds, str | Path):
            seeds, tree["data"] = (), {"train": [{"path": str(seeds)}]}
        elif seeds:
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
