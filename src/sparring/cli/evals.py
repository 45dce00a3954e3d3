"""Verbs that measure: models on prompts, and what is left to find in a run's defender."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparring.cli.speech import Json, Run, console, note, print_json, say
from sparring.types import UsageError

if TYPE_CHECKING:
    from sparring.evals.evaluate import Evaluation
    from sparring.evals.models import Attacker, Candidate, Wanted
    from sparring.evals.paper import Paper
    from sparring.evals.sheet import Sheet
    from sparring.evals.tasks import Asked

Words = Annotated[
    list[str] | None, typer.Argument(metavar="MODEL...", help="folders, hub names, or `sandbox`")
]
Tasks = Annotated[
    str | None, typer.Option(help="NAME, NAME=FILE, seed files or `sandbox`, separated by commas")
]
Judges = Annotated[str, typer.Option(help="a kind or a YAML file of judges; a second judges too")]
Adapters = Annotated[list[str] | None, typer.Option(help="a PEFT folder on the model; repeatable")]
LOG_FORMATS = ("inspect", "lm-eval")


def evaluate(
    models: Words = None,
    tasks: Tasks = None,
    judge: Judges = "sandbox",
    adapter: Adapters = None,
    base: Annotated[bool, typer.Option(help="ask the base beside its adapters")] = True,
    revision: Annotated[str | None, typer.Option(help="a hub model's commit, tag, branch")] = None,
    base_url: Annotated[str | None, typer.Option(help="the models are served here (…/v1)")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="the variable that holds the key")] = None,
    data: Annotated[Path, typer.Option(help="where the tasks' files lie")] = Path("data"),
    success: Annotated[str | None, typer.Option(help="harmful | not_refused, for all")] = None,
    attacker: Annotated[Path | None, typer.Option(help="a run: its attacker rewrites too")] = None,
    best_of: Annotated[int, typer.Option(min=1, help="rewrites of each seed by it")] = 1,
    epochs: Annotated[int, typer.Option(min=1, help="replies to each prompt, for ASR@k")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="the first openings of a set")] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0: greedy")] = 1.0,
    max_completion_length: Annotated[int, typer.Option(min=1, help="tokens")] = 512,
    batch: Annotated[int, typer.Option(min=1, help="prompts between two writes")] = 32,
    seed: Annotated[int, typer.Option(help="of the replies")] = 0,
    output: Annotated[Path | None, typer.Option(help="default: evals/MODEL-DIGEST")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on where it was stopped")] = False,
    retry_unscored: Annotated[
        bool, typer.Option("--retry-unscored", help="ask again what failed")
    ] = False,
    rescore: Annotated[Path | None, typer.Option(help="a folder: its results again")] = None,
    calibration: Annotated[Path | None, typer.Option(help="rates without judge's errors")] = None,
    max_unscored: Annotated[float, typer.Option(min=0, max=1, help="share; else exit 3")] = 0.01,
    fail_if: Annotated[list[str] | None, typer.Option(help="'harmbench.asr>0.05'; exit 4")] = None,
    log_format: Annotated[list[str] | None, typer.Option(help="inspect | lm-eval")] = None,
    json: Json = False,
) -> None:
    """Test models: ASR on harmful prompts, over-refusal on benign ones.

    Every reply is on disk as it comes; the same command with --resume goes on after a kill. With
    --adapter, base and adapters are compared sample by sample.
    """
    from sparring.evals.evaluate import Evaluation
    from sparring.evals.models import Wanted
    from sparring.evals.tasks import Asked
    from sparring.players.player import Sampling

    ending = _Ending(max_unscored, fail_if or [], calibration, log_format or [], json)
    if rescore:
        ending.tell(rescore)
        return
    if not models or not tasks:
        missing = "option '--tasks'" if models else "argument 'MODEL...'"
        raise UsageError(f"Missing {missing} (sparring eval --help)")
    asked = Asked(_words(tasks), data, limit, _success(success))
    if temperature == 0 and epochs > 1:
        raise UsageError("--epochs: at temperature 0 every epoch would be the first one again")
    paper = _paper(asked, _words(judge), models[0], epochs, best_of if attacker else 0)
    sampling = Sampling(temperature, max_completion_length)
    wanted = Wanted(models, adapter or [], sampling, revision, base)
    rewriter = _attacker(attacker) if attacker else None
    candidates = _candidates(wanted, base_url, api_key_env)
    ending.check(paper.sheet)
    evaluation = Evaluation(paper, candidates, sampling, rewriter, batch, seed)
    ending.tell(_run(evaluation, output, resume, retry_unscored, json))


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _success(word: str | None) -> Any:
    from sparring.evals.sheet import SUCCESS

    if word not in (None, *SUCCESS):
        raise UsageError(f"--success: {word!r:.40} is none of {', '.join(SUCCESS)}")
    return word


def _paper(asked: Asked, judges: Sequence[str], model: str, epochs: int, rollouts: int) -> Paper:
    from sparring.evals.paper import paper

    return replace(paper(asked, judges, model), epochs=epochs, rollouts=rollouts)


def _attacker(run: Path) -> Attacker:
    from sparring.evals.models import attacker_of
    from sparring.store.folder import RunDir

    return attacker_of(RunDir.open(run))


def _candidates(wanted: Wanted, base_url: str | None, key: str | None) -> list[Candidate]:
    from sparring.evals.models import local, served

    if base_url is None:
        found, notes = local(wanted)
        for text in notes:
            note(text)
        return found
    from sparring.transport.client import Client
    from sparring.transport.guard import Address, from_environment

    secret = from_environment(key, os.environ, "--api-key-env")
    return served(wanted, Client(Address(base_url, "--base-url", permit=""), key=secret))


def _run(
    evaluation: Evaluation, output: Path | None, resume: bool, again: bool, quiet: bool
) -> Path:
    """Everything asked and on disk; where."""
    from sparring.evals.evaluate import run
    from sparring.evals.folder import EvalDir, default_folder

    asked = evaluation.asked()
    names = [candidate.name for candidate in evaluation.candidates]
    folder = EvalDir(output or default_folder(asked, names[0]))
    folder.check(asked, resume)
    for text in evaluation.paper.notes():
        note(text)
    if folder.status == "complete" and not again:
        note(f"complete already: {folder.folder}")
        return folder.folder
    with _Bars(quiet) as bars:
        run(evaluation, folder, bars.told, again)
    return folder.folder


class _Bars:
    """Bars on a terminal, else a line for every tenth; all of it beside the output."""

    def __init__(self, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.screen, self.quiet = Console(stderr=True), quiet
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self.bars = Progress(
            TextColumn("{task.description:>24.24}", markup=False),
            *columns,
            console=self.screen,
            disable=quiet or not self.screen.is_terminal,
        )
        self.tasks: dict[str, Any] = {}
        self.last: dict[str, int] = {}

    def __enter__(self) -> _Bars:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def told(self, model: str, done: int, total: int) -> None:
        """So many samples of a model are there."""
        from sparring.report.escape import line

        if model not in self.tasks:
            self.tasks[model] = self.bars.add_task(line(Path(model).name), total=total)
        self.bars.update(self.tasks[model], completed=done)
        tenth = 10 * done // max(total, 1)
        if not (self.quiet or self.screen.is_terminal) and self.last.get(model) != tenth:
            note(f"{model}: {done}/{total}")
        self.last[model] = tenth


@dataclass(frozen=True)
class _Ending:
    """What becomes of samples: results, logs, what is printed, and the exit code."""

    max_unscored: float
    fail_if: Sequence[str]
    calibration: Path | None
    log_formats: Sequence[str]
    json: bool

    def __post_init__(self) -> None:
        for name in self.log_formats:
            if name not in LOG_FORMATS:
                raise UsageError(f"--log-format: {name!r:.40} is none of {', '.join(LOG_FORMATS)}")

    def check(self, sheet: Sheet) -> None:
        """Refuse a limit on what will not be measured, before a model is loaded."""
        from sparring.evals.sheet import parsed

        parsed(self.fail_if, sheet.names())
        self._known()

    def _known(self) -> list[Any]:
        from sparring.evals.calibrate import read_calibrations

        return read_calibrations(self.calibration) if self.calibration else []

    def tell(self, path: Path) -> None:
        """Measure the samples, write and print the results; raises where a limit is crossed."""
        from sparring.evals.finish import finished, logged
        from sparring.report.pareto import drawn

        done = finished(path, self._known())
        written = [done.folder.folder / "results.json"]
        written += dict.fromkeys(file.parent for file in logged(done, self.log_formats))
        written += drawn(done)
        if self.json:
            print_json(done.summary())
        else:
            for text in done.lines():
                say(text)
            for file in written:
                say(f"written    {file}")
        note(done.caveat)
        done.check(self.fail_if, self.max_unscored)


At = Annotated[int | None, typer.Option(min=0, help="rounds; default: the last checkpoint")]


def exploit(
    run: Run,
    attackers: Annotated[str, typer.Option(help="of pool, broad, own, enumeration")] = "all",
    steps: Annotated[int, typer.Option(min=1, help="of each attacker that learns")] = 80,
    at: At = None,
    cache: Annotated[
        Path | None, typer.Option(help="of warmed-up attackers; default: attackers/ beside the run")
    ] = None,
    seed: Annotated[int, typer.Option(help="of the attackers")] = 0,
    json: Json = False,
) -> None:
    """Train attackers, fresh ones and the run's own, on its frozen defender; the worst counts."""
    from sparring.evals.exploit import Budget, Exploit, asked_for
    from sparring.store.folder import RunDir

    opened = RunDir.open(run)
    asked = Exploit(
        run=opened,
        number=opened.checkpoints.at(at),
        budget=Budget(steps=steps),
        cache=cache or run.parent / "attackers",
        rng_seed=seed,
    )
    names = asked_for(asked, attackers)
    told = asked.measure(
        names, lambda name, done: say(f"{name} {done}/{steps}") if not json else None
    )
    if json:
        print_json(told)
        return
    for name, curve in told["attackers"].items():
        values = " ".join(_short(rate["value"], "unscored") for rate in curve["asr"])
        say(f"{name:12s} ASR at {curve['steps']}: {values}  ({curve['tried']})")
    say(f"worst: {told['worst'] or 'unscored'}")


def crossplay(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="runs' folders")],
    at: Annotated[str, typer.Option(help="rounds, with commas; default: the last")] = "",
    n: Annotated[int, typer.Option(min=1, help="games of a cell")] = 192,
    cache: Annotated[Path | None, typer.Option(help="where played cells are kept")] = None,
    json: Json = False,
) -> None:
    """Every attacker of the runs against every defender: ASR by the clean outcome."""
    from sparring.evals.crossplay import cross, entrants
    from sparring.report.page import labels
    from sparring.report.terminal import matrix
    from sparring.store.folder import RunDir
    from sparring.store.records import CrossplayResults

    numbers = rounds_of(at)
    named = zip(runs, labels(runs), strict=True)
    told = [one for run, name in named for one in entrants(RunDir.open(run), numbers, name)]

    def shown(row: str, column: str, value: float | None) -> None:
        if not json:
            say(f"{row} against {column}: {_short(value, 'unscored')}")

    found = cross(told, n, cache or runs[0].parent / "crossplay", shown)
    if json:
        print_json(found)
        return
    console().print(matrix(CrossplayResults.model_validate(found).asr, n))


def _short(value: float | None, unscored: str) -> str:
    """A rate in a line for a person."""
    return unscored if value is None else f"{value:.3f}"


def rounds_of(text: str) -> list[int]:
    """`0,40,160` as numbers."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    wrong = [word for word in words if not word.isdecimal()]
    if wrong:
        raise UsageError(f"--at: {wrong[0]!r:.40} is no number of rounds; wanted such as 0,40,160")
    return [int(word) for word in words]


def bound(
    run: Run,
    at: At = None,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.9999, help="joint")] = 0.95,
    json: Json = False,
) -> None:
    """An upper limit on how often the run's defender fails, by attack family of its exam."""
    from sparring.evals.crossplay import items
    from sparring.stats.bound import bound as limit
    from sparring.store.files import dumps, write_atomic
    from sparring.store.folder import RunDir

    opened = RunDir.open(run)
    number = opened.exams()[-1] if at is None and opened.exams() else at or 0
    asked = items(opened, number)
    told = limit(
        {k.split("/", 1)[1]: list(v.values()) for k, v in asked.items() if k.startswith("asr/")},
        confidence,
    )
    path = run / "evidence" / "bound.json"
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, dumps({"rounds": number, **told.to_json()}))
    if json:
        print_json(told.to_json())
        return
    for name, family in told.families.items():
        say(
            f"{name:24s} {family.failures}/{family.n} failed, effective n "
            f"{family.effective_n:.0f}: at most {family.upper:.3f}"
        )
    say(told.caveat)


def compare(
    first: Annotated[Path, typer.Argument(help="a run's folder")],
    second: Annotated[Path, typer.Argument(help="another that sat the same exam")],
    at: At = None,
    json: Json = False,
) -> None:
    """The paired difference of two runs on the same exam items, second minus first."""
    from sparring.evals.crossplay import compared
    from sparring.store.folder import RunDir

    told = compared(RunDir.open(first), RunDir.open(second), at, note)
    if json:
        print_json({name: paired.to_json() for name, paired in told.items()})
        return
    say(f"{second} minus {first}, 95 % intervals; {len(told)} comparisons, each p for itself")
    for name, paired in told.items():
        say(f"{name:32s} {_short(paired.rate_a, '–')} → {_short(paired.rate_b, '–')}  {paired}")
