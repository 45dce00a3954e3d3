"""An evaluation's folder: its specification, its samples (each exactly once), its results."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from sparring.data.overlap import counted
from sparring.door import read_json, reading
from sparring.exam import RateQuestion, Success, questions, rate_name
from sparring.games.codec import state_json, verdict_json
from sparring.metrics import without_reply
from sparring.store.files import Journal, Row, digest, dumps, sweep, write_atomic
from sparring.store.folder import Folder, check_free, environment
from sparring.types import State, Status, UsageError, Verdict

SCHEMA = 1
Key = tuple[str, str, int, int]
"""Names a sample: (model, set, place in the set, draw)."""


@dataclass(frozen=True, slots=True)
class SourceCard:
    """A file as it was read."""

    path: str
    sha256: str
    schema: str


@dataclass(frozen=True, slots=True)
class TaskCard:
    """One task as it was measured; `judge` is the one its makers use."""

    success: Success
    cluster: str
    judge: str
    sources: Sequence[SourceCard]


@dataclass(frozen=True, slots=True)
class SetCard:
    """`n` openings of one task, each played `draws` times."""

    task: str
    n: int
    draws: int = 1


@dataclass(frozen=True, slots=True)
class ReportedRate:
    """The answers to one question about `group`: a set, or several `members` as one.

    Each opening is played `draws` times.
    """

    name: str
    group: str
    members: Sequence[str]
    question: RateQuestion
    draws: int

    @property
    def metric(self) -> str:
        """The first part of the rate's name, such as `asr`."""
        return self.question.metric

    @property
    def names(self) -> list[str]:
        """Its name, and the name of ASR@k where there are k draws: a gate can be set on each."""
        at_k = [f"asr@{self.draws}"] if self.metric == "asr" and self.draws > 1 else []
        return [rate_name(metric, self.group) for metric in (self.metric, *at_k)]


@dataclass(frozen=True, slots=True)
class Sheet:
    """What is measured: sets by name, and `pooled` sets that are also reported as one.

    `fills` are the fields of the judge, `second` those of the second judge, if there is one.
    """

    tasks: Mapping[str, TaskCard]
    sets: Mapping[str, SetCard]
    pooled: Mapping[str, Sequence[str]]
    fills: Sequence[str]
    second: Sequence[str] = ()

    def rates(self) -> Iterator[ReportedRate]:
        """Yield everything that is reported: every set by itself, then the pooled ones."""
        groups: dict[str, Sequence[str]] = {name: [name] for name in self.sets}
        for group, members in (groups | dict(self.pooled)).items():
            success = self.tasks[self.sets[members[0]].task].success
            draws = max(self.sets[name].draws for name in members)
            for question in questions(group, self.fills, success):
                name = rate_name(question.metric, group)
                yield ReportedRate(name, group, members, question, draws)

    def names(self) -> list[str]:
        """Return every name that a gate can be set on."""
        return [name for rate in self.rates() for name in rate.names]


@dataclass(frozen=True, slots=True)
class EvalSpec:
    """Everything that the samples depend on: equal specifications have equal samples here."""

    models: Sequence[Mapping[str, Any]]
    sheet: Sheet
    judge: Mapping[str, Any]
    second: Mapping[str, Any] | None
    sampling: Mapping[str, Any]
    attacker: Mapping[str, Any] | None
    seed: int

    @property
    def names(self) -> list[str]:
        """The models, as samples and results name them."""
        return [str(card["name"]) for card in self.models]


def key_of(row: Row) -> Key:
    """Return the key of the sample that a line holds."""
    return str(row["model"]), str(row["set"]), int(row["place"]), int(row["draw"])


def keyed(key: Key) -> Row:
    """Return the fields of a line that hold its key."""
    return dict(zip(("model", "set", "place", "draw"), key, strict=True))


def row_of(key: Key, state: State, second: Verdict | None) -> Row:
    """Return a finished game as a line: its moves, and the verdicts on it."""
    last = state.moves[-1].completion
    cause = Status.NO_REPLY if without_reply(state) and last.status is Status.OK else last.status
    return {
        **keyed(key),
        **state_json(state),
        "finished": last.finished,
        "verdict": verdict_json(state.verdict) if state.rulings else None,
        **({"unanswered": cause} if cause is not Status.OK else {}),
        **({"second": verdict_json(second)} if second else {}),
    }


def default_folder(spec: EvalSpec) -> Path:
    """Return `evals/MODEL-DIGEST`: the same specification has the same folder."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(spec.names[0]).name).strip("-.") or "model"
    return Path("evals") / f"{name[:100]}-{digest(asdict(spec), 8)}"


@dataclass(frozen=True, slots=True)
class Overlap:
    """What models were trained on, and by set the kind of each prompt's overlap with it, or ''.

    `trained_on` names runs and files, which hold `seeds` training seeds.
    """

    trained_on: Sequence[str]
    seeds: int
    kinds: Mapping[str, Sequence[str]]

    def to_json(self) -> dict[str, Any]:
        """Return the figures as results.json holds them."""
        sets = {name: counted(kinds) for name, kinds in self.kinds.items()}
        return {"trained_on": self.trained_on, "seeds": self.seeds, "sets": sets}


class EvalDir(Folder):
    """One evaluation's folder.

    `eval.json` holds the specification and is never changed; `samples.jsonl` (and, with an
    attacker, `attacks.jsonl`) hold untrusted text; `results.json` is computed from them
    and, where it is known what a model was trained on, from `overlap.json`.
    """

    what = "it"

    @property
    def samples(self) -> Journal:
        """Every reply and its verdicts."""
        return Journal(self.path("samples.jsonl"), key_of)

    @property
    def attacks(self) -> Journal:
        """Every rewrite of a trained attacker."""
        return Journal(self.path("attacks.jsonl"), key_of)

    @property
    def utility(self) -> Journal:
        """Which questions of lm-evaluation-harness a model answered rightly, a line for a task."""
        return Journal(self.path("utility.jsonl"), lambda row: (row["model"], row["task"]))

    @property
    def spec(self) -> EvalSpec:
        """What is measured; UsageError where there is no evaluation."""
        row = self._eval_json()
        with reading(self.path("eval.json")):
            spec = TypeAdapter(EvalSpec).validate_python(row)
            list(spec.sheet.rates()), spec.names, spec.judge["name"]
        return spec

    @property
    def stage(self) -> str:
        """`none`, `started`, `interrupted`, `stopped` or `complete`."""
        return self.status.status if self._begun else "none"

    @property
    def finished_at(self) -> str:
        """When it was last written to, in ISO 8601 with the zone as +00:00."""
        return f"{self.status.time[:-2]}:{self.status.time[-2:]}"

    @property
    def _begun(self) -> bool:
        """Whether a sample was ever written; before that there is nothing to resume."""
        files = (self.samples.path, self.attacks.path, self.path("results.json"))
        return self.path("run.json").is_file() and any(
            path.is_file() and path.stat().st_size for path in files
        )

    @property
    def overlap(self) -> Overlap | None:
        """Which prompts were trained on, where the training seeds of a model were known."""
        path = self.path("overlap.json")
        if not path.is_file():
            return None
        with reading(path):
            overlap = TypeAdapter(Overlap).validate_python(read_json(path))
            [overlap.kinds[name][card.n - 1] for name, card in self.spec.sheet.sets.items()]
        return overlap

    def keep_overlap(self, overlap: Overlap | None) -> None:
        """Write what was found now; without known training seeds what is there stays."""
        if overlap:
            write_atomic(self.path("overlap.json"), dumps(asdict(overlap)))

    def _eval_json(self) -> Any:
        path = self.path("eval.json")
        if not path.is_file():
            raise UsageError(f"{self.folder}: not an evaluation (no eval.json in it)")
        with reading(path):
            return dict(read_json(path))

    def check(self, spec: EvalSpec, resume: bool) -> None:
        """Refuse a bad name, a folder that holds something else, and resuming without `resume`."""
        if not self._begun:
            own = {"LOCK", "env.json", "eval.json", "run.json", "samples.jsonl", "attacks.jsonl"}
            own |= {"overlap.json", "utility.jsonl", "utility"}
            check_free(self.folder, "--output", own, "holds something else; choose another")
            return
        before = self._eval_json()
        now = json.loads(dumps({"schema": SCHEMA, **asdict(spec)}))
        differ = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
        if differ:
            raise UsageError(
                f"--output: {self.folder} asked something else: {', '.join(differ)} "
                f"{'differs' if len(differ) == 1 else 'differ'} from its eval.json; choose another"
            )
        if self.stage != "complete" and not resume:
            raise UsageError(
                f"--output: {self.folder} is begun and not complete; go on with it (--resume), or "
                "choose another"
            )

    @contextmanager
    def writing(self, spec: EvalSpec) -> Iterator[None]:
        """Let one process at a time write; the folder is there and whole within the block."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.locked():
            sweep(self.folder)
            if not self._begun:
                write_atomic(self.path("env.json"), dumps(environment()))
                write_atomic(self.path("eval.json"), dumps({"schema": SCHEMA, **asdict(spec)}))
            self.set_status("started")
            yield

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Write results.json, without a clock: equal samples give equal bytes."""
        data = json.dumps(results, indent=1, allow_nan=False, sort_keys=True).encode() + b"\n"
        write_atomic(self.path("results.json"), data)
        sweep(self.folder)
