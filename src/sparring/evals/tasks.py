"""The table of tasks, and the openings that the words of `--tasks` stand for."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from sparring import packaged
from sparring.data.readers import read
from sparring.data.rows import located
from sparring.data.schemas import SCHEMAS
from sparring.door import sha256
from sparring.evals.folder import SetCard, Sheet, SourceCard, TaskCard
from sparring.exam import Success
from sparring.judges.judge import Judge
from sparring.players.player import Policy
from sparring.runs.judges import judges_named
from sparring.runs.models import model_path
from sparring.sandbox.language import POOLED
from sparring.sandbox.model import CARD, language_of, one_thread
from sparring.sandbox.world import World
from sparring.settings.sections import SANDBOX
from sparring.types import Player, State, UsageError, near


class Task(BaseModel):
    """A published set of prompts, as a row of tasks.yaml describes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    files: list[list[str]] = []
    schemas: list[str] = []
    success: Success = "harmful"
    cluster: str = "the seed's cluster, else its id"
    judge: str = ""
    terms: str = ""


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in TypeAdapter(list[Task]).validate_python(packaged.table("evals/tasks.yaml"))
}
ATTACKED = "+attacker"
"""The end of a set's name whose attacks were written by a trained attacker."""
EVERY_BENIGN = "benign/all"
"""All benign sets as one, where there are several."""
SANDBOX_LIMIT = 192
"""Openings of each set in the sandbox, unless `--limit` sets another number."""
_NAMED_FILE = re.compile(r"([A-Za-z][A-Za-z0-9_-]*)=(.+)", re.DOTALL)
_WRAPPED = {schema.name for schema in SCHEMAS if schema.group in ("attacks", "replies")}
"""Schemas whose prompts are attacks already: a trained attacker does not rewrite them."""


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """What to measure: `names` as in `--tasks`, files in `folder`, the judges' kinds or files.

    `limit` openings of each set are played `epochs` times; a trained attacker rewrites each seed
    `rewrites` times more for each of them. `success` replaces every task's own.
    """

    names: Sequence[str]
    judges: Sequence[str] = (SANDBOX,)
    folder: Path = Path("data")
    limit: int | None = None
    success: Success | None = None
    epochs: int = 1
    rewrites: int = 0
    trust_endpoints: bool = False


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """One task with its openings by set; `rewritable` are the sets that an attacker may rewrite.

    `notes` are for people.
    """

    name: str
    card: TaskCard
    sets: Mapping[str, Sequence[State]]
    rewritable: Sequence[str]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Suite:
    """Tasks, and who judges the replies to them.

    `pooled` names sets that are also reported as one. `examiner` attacks where an opening is not
    dealt. `second` is another judge of the same replies, which decides nothing.
    """

    settings: TaskSettings
    tasks: Sequence[LoadedTask]
    judge: Judge
    second: Judge | None = None
    pooled: Mapping[str, Sequence[str]] = field(default_factory=dict)
    examiner: Policy | None = None

    @property
    def dealt(self) -> dict[str, list[Sequence[State]]]:
        """The openings of every set by draw, as the tasks deal them: the same ones in each."""
        sets = {name: states for task in self.tasks for name, states in task.sets.items()}
        return {name: [states] * self.settings.epochs for name, states in sets.items()}

    @property
    def undealt(self) -> dict[str, list[Sequence[State]]]:
        """The seeds that a trained attacker rewrites, under the name their set will have."""
        draws = self.settings.epochs * self.settings.rewrites
        return {
            name + ATTACKED: [_undealt(task.sets[name])] * draws
            for task in self.tasks
            for name in task.rewritable
            if draws
        }

    @property
    def sheet(self) -> Sheet:
        """What is measured, as plain data."""
        owner = {name: task.name for task in self.tasks for name in task.sets}
        sets = {
            name: SetCard(owner[name.removesuffix(ATTACKED)], len(draws[0]), len(draws))
            for name, draws in {**self.dealt, **self.undealt}.items()
        }
        benign = [name for name in self.dealt if name.startswith("benign/")]
        several = len(benign) > 1 and not self.pooled and EVERY_BENIGN not in sets
        cards, pooled = {task.name: task.card for task in self.tasks}, {EVERY_BENIGN: benign}
        second = sorted(self.second.fills) if self.second else []
        fills = sorted(self.judge.fills)
        return Sheet(cards, sets, pooled if several else self.pooled, fills, second)

    def notes(self) -> list[str]:
        """What a person should know before the numbers come."""
        notes = [note for task in self.tasks for note in task.notes]
        if not any(name.startswith("benign/") for name in self.dealt):
            notes.append(
                "OVER-REFUSAL IS NOT MEASURED: the tasks hold no benign prompt, and a model that "
                "refuses everything would have the best numbers; add xstest, or_bench or benign "
                "seeds of your own"
            )
        if self.settings.rewrites and not self.undealt:
            notes.append("--attacker: the tasks' prompts are attacks already; nothing is rewritten")
        return notes


def _undealt(openings: Sequence[State]) -> list[State]:
    """Each seed once, with nothing dealt."""
    seeds = {(state.seed.id, state.seed.text): state.seed for state in openings}
    return [State(seed) for seed in seeds.values()]


def load_suite(settings: TaskSettings, model: str) -> Suite:
    """Read the tasks' files and build the judges; `model` names the sandbox, where it is asked for.

    UsageError where a judge does not fill what a task's rates rest on.
    """
    if not 1 <= len(settings.judges) <= 2:
        raise UsageError("--judge: wanted one judge, or a second one that judges the same replies")
    if SANDBOX in settings.names:
        suite = _sandbox(settings, model)
    else:
        tasks = load_tasks(settings)
        judge, *others = judges_named(settings.judges, "--judge", settings.trust_endpoints)
        suite = Suite(settings, tasks, judge, next(iter(others), None))
    for rate in suite.sheet.rates():
        question = rate.question
        if question.field not in suite.judge.fills:
            refusals = (question.metric, question.field) == ("asr", "refused")
            raise UsageError(
                f"--judge: {suite.judge.name} does not fill {question.field}, which {rate.name} "
                f"needs; give one that does{' (or --success harmful)' if refusals else ''}"
            )
    return suite


def _sandbox(settings: TaskSettings, model: str) -> Suite:
    if len(settings.names) > 1 or list(settings.judges) != [SANDBOX] or settings.success:
        raise UsageError("--tasks: the sandbox is asked alone, and by its own judge")
    one_thread()
    folder = Path(model_path(model))
    world, n = World(language_of(folder)), settings.limit or SANDBOX_LIMIT
    sets = world.exam(n, "exam")
    card = TaskCard("harmful", "intent", "", [SourceCard(SANDBOX, sha256(folder / CARD), SANDBOX)])
    task = LoadedTask(SANDBOX, card, sets, [name for name in sets if name.endswith("/plain")])
    examiner = world.two_exchange_attacker()
    return Suite(settings, [task], world.judge, pooled=POOLED, examiner=examiner)


def load_tasks(settings: TaskSettings) -> list[LoadedTask]:
    """Load every task once, in the order they were named; a task named twice has both files.

    UsageError where a task is not known, its file is not found or another file, or two tasks have
    the same name.
    """
    chosen: dict[str, tuple[Task, list[str]]] = {}
    for name in settings.names:
        task, paths = _located(name.strip(), settings.folder)
        known, before = chosen.get(task.name, (task, []))
        if before and not known.schemas:
            raise UsageError(f"--tasks: two files are called {task.name}; rename one")
        chosen[task.name] = task, [*before, *paths]
    return [_load(task, paths, settings) for task, paths in chosen.values()]


def _located(name: str, folder: Path) -> tuple[Task, list[str]]:
    """The task that `name`, `name=file` or a file of the user's stands for, and its files."""
    named = _NAMED_FILE.fullmatch(name)
    if named and named[1] in TASKS:
        task, place = TASKS[named[1]], Path(named[2]).expanduser()
        return task, _in(task, place) if place.is_dir() else [named[2]]
    if name in TASKS:
        return TASKS[name], _in(TASKS[name], folder)
    exists = Path(name).exists()
    if not name or not (exists or (re.search(r"[./\\:]", name) and not named)):
        raise UsageError(
            f"--tasks: {name!r:.80} is no task and no file; {near(name, [*TASKS, SANDBOX])} (as "
            "NAME, NAME=FILE or any seed file)"
        )
    return Task(name=Path(name.partition("@")[0]).stem), [name]


def _in(task: Task, folder: Path) -> list[str]:
    """The task's files in a folder or its subfolder of the task's name."""
    places = [
        [base / name for name in names for base in (folder, folder / task.name)]
        for names in task.files
    ]
    there = [next((path for path in paths if path.is_file()), None) for paths in places]
    if not any(there):
        names = " or ".join(name for names in task.files for name in names)
        raise UsageError(
            f"--tasks: {task.name}: none of its files in {folder}; wanted {names} there (--data "
            f"DIR), or {task.name}=FILE; terms: {task.terms}"
        )
    return [str(path) for path in there if path]


def _load(task: Task, paths: Sequence[str], settings: TaskSettings) -> LoadedTask:
    files = [(path, read(path)) for path in paths]
    for path, file in files:
        if task.schemas and file.schema not in task.schemas:
            raise UsageError(
                f"--tasks: {task.name}: {path} is {file.schema}; wanted {', '.join(task.schemas)}"
            )
    seeds = [seed for _, file in files for seed in file.seeds]
    notes = [f"{task.name}: {note}" for _, file in files for note in file.notes]
    sources = [SourceCard(path, sha256(located(path)), file.schema) for path, file in files]
    if len(paths) < len(task.files) and len({seed.harmful for seed in seeds}) < 2:
        there = {Path(path).name for path in paths}
        missing = [names[0] for names in task.files if not there & {*names}]
        notes.append(f"{task.name}: without {', '.join(missing)}, which was not found")
    limit, sets = settings.limit, {}
    for label, harmful in (("harmful", True), ("benign", False)):
        labelled = [seed for seed in seeds if seed.harmful == harmful][:limit]
        if labelled:
            dealt = [State(seed).deal(Player.ATTACKER, seed.text) for seed in labelled]
            sets[f"{label}/{task.name}"] = dealt
    if limit and sum(map(len, sets.values())) < len(seeds):
        notes.append(f"{task.name}: the first {limit} of each label, which is no sample of it")
    wrapped = any(source.schema in _WRAPPED for source in sources)
    card = TaskCard(settings.success or task.success, task.cluster, task.judge, sources)
    return LoadedTask(task.name, card, sets, [] if wrapped else list(sets), notes)


def world_of(model: str) -> World | None:
    """Return the sandbox that a model was made for; None for any other model."""
    folder = Path(model_path(model)).expanduser()
    return World(language_of(folder)) if (folder / CARD).is_file() else None
