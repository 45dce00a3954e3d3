"""`sparring eval`: models on public or own prompts, judged, with intervals and limits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparring.cli.speech import Json, note, print_json, say
from sparring.types import UsageError

if TYPE_CHECKING:
    from sparring.evaluating.choosing import Asked
    from sparring.evaluating.models import Candidate, Wanted
    from sparring.evaluating.paper import Paper
    from sparring.evaluating.rewriting import Attacker
    from sparring.evaluating.running import Evaluation
    from sparring.evaluating.sheet import Sheet

Words = Annotated[
    list[str] | None, typer.Argument(metavar="MODEL...", help="folders, hub names, or `sandbox`")
]
Tasks = Annotated[
    str | None,
    typer.Option(help="NAME, NAME=FILE, seed files or `sandbox`, separated by commas"),
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
    from sparring.evaluating.choosing import Asked
    from sparring.evaluating.models import Wanted
    from sparring.evaluating.running import Evaluation
    from sparring.policies.local import Sampling

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
    from sparring.evaluating.sheet import SUCCESS

    if word not in (None, *SUCCESS):
        raise UsageError(f"--success: {word!r:.40} is none of {', '.join(SUCCESS)}")
    return word


def _paper(asked: Asked, judges: Sequence[str], model: str, epochs: int, rollouts: int) -> Paper:
    from sparring.evaluating.paper import paper

    return replace(paper(asked, judges, model), epochs=epochs, rollouts=rollouts)


def _attacker(run: Path) -> Attacker:
    from sparring.evaluating.rewriting import attacker_of
    from sparring.records import RunDir

    return attacker_of(RunDir.open(run))


def _candidates(wanted: Wanted, base_url: str | None, key: str | None) -> list[Candidate]:
    from sparring.evaluating.models import local, served

    if base_url is None:
        found, notes = local(wanted)
        for text in notes:
            note(text)
        return found
    from pydantic import SecretStr

    from sparring.judges.address import Address
    from sparring.judges.api import Server

    if key and not os.environ.get(key):
        raise UsageError(f"--api-key-env: there is no variable {key!r:.60}, or it is empty")
    secret = SecretStr(os.environ[key]) if key else None
    return served(wanted, Server(Address(base_url, "--base-url"), wanted.models[0], key=secret))


def _run(
    evaluation: Evaluation, output: Path | None, resume: bool, again: bool, quiet: bool
) -> Path:
    """Everything asked and on disk; where."""
    from sparring.evaluating.folder import EvalDir, default_folder
    from sparring.evaluating.running import run

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
        from sparring.report.terminal import line

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
        from sparring.evaluating.limits import parsed

        parsed(self.fail_if, sheet.names())
        self._known()

    def _known(self) -> list[Any]:
        from sparring.evaluation.calibration import read_calibrations

        return read_calibrations(self.calibration) if self.calibration else []

    def tell(self, path: Path) -> None:
        """Measure the samples, write and print the results; raises where a limit is crossed."""
        from sparring.evaluating.finishing import finished, logged
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
