"""Verbs about judges: probe one, calibrate it on labelled replies, let it judge stored ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparring.cli.speech import Json, TrustEndpoints, note, print_json, say
from sparring.types import UsageError

if TYPE_CHECKING:
    from sparring.data.readers import Labelled
    from sparring.evals.judging import Calibration, StoredGame
    from sparring.judges.judge import Judge

judge_app = typer.Typer(no_args_is_help=True, help="Measure judges, and let them judge again.")
Judges = Annotated[list[str] | None, typer.Option("--judge", help="a kind, or a judge's YAML file")]
_CORRECTED = "  without the judge's errors"
MostUnscored = Annotated[float, typer.Option(help="share; above it exit code 3")]


@judge_app.command()
def probe(
    what: Annotated[str, typer.Argument(metavar="KIND|FILE", help="a kind, or a YAML file")],
    trust_endpoints: TrustEndpoints = False,
    json: Json = False,
) -> None:
    """Ask a judge what is known of a few plain exchanges, and say which it gets right.

    Exit code 2 where a judge is right on no more than half of one side of a field.
    """
    from sparring.judges.probe import probe as probed
    from sparring.runs.judges import entries, judge_of

    failed: list[str] = []
    rows: list[dict[str, Any]] = []
    for entry in entries(what, trust_endpoints):
        judge = judge_of([entry], {}, what, what, proven=False)
        result = probed(judge)
        items = [{"item": name, "right": right} for name, right, _ in result.items]
        rows.append({"judge": judge.name, "wrong": result.wrong, "items": items})
        failed += [f"{judge.name} {wrong}" for wrong in result.wrong]
        for _, right, said in result.items if not json else ():
            say(f"{'right' if right else 'WRONG'}  {said}")
        if not json:
            n = sum(right for _, right, _ in result.items)
            say(f"{judge.name}: {n} of {len(result.items)} right")
        note(judge.caveat)
    if json:
        print_json(rows)
    if failed:
        raise UsageError("; ".join(failed))


@judge_app.command()
def calibrate(
    labelled: Annotated[str, typer.Argument(metavar="LABELLED_FILE", help="replies with labels")],
    judge: Judges = None,
    stored: Annotated[bool, typer.Option("--stored", help="the verdicts in the file too")] = False,
    behaviors: Annotated[Path | None, typer.Option(help="HarmBench's behaviors, by id")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="replies")] = None,
    output: Annotated[Path, typer.Option(help="JSON")] = Path("calibration.json"),
    max_unscored: MostUnscored = 0.01,
    trust_endpoints: TrustEndpoints = False,
    json: Json = False,
) -> None:
    """How often judges err, against people's labels: sensitivity, specificity, F1, alpha.

    Without --judge: the judges whose verdicts stand in the file. Figures of another judge that
    the output already holds stay there.
    """
    from sparring.data.readers import read_labelled
    from sparring.evals.judging import of_stored, with_figures
    from sparring.evals.results import check_unscored

    judges = _judges(judge or [], trust_endpoints)
    found = read_labelled(labelled, behaviors, limit)
    source = _source(labelled, found.schema)
    told = of_stored(found.items, source) if stored or not judges else []
    if not told and not judges:
        raise UsageError(f"{labelled}: no judge's verdicts stand in it; name one with --judge")
    for text in found.notes if not json else ():
        note(text)
    for one in judges:
        told += _asked(one, found.items, source)
    _write(output, told)
    if json:
        print_json({"calibrations": [asdict(one) for one in told], "written": str(output)})
    else:
        _table(told)
        say(f"written    {output}")
    for one in judges:
        note(with_figures(one, told).caveat)
    check_unscored([one.accuracy for one in told], max_unscored)


def _asked(judge: Judge, items: Sequence[Labelled], source: str) -> list[Calibration]:
    from sparring.evals.judging import of_verdicts, state_of

    verdicts = judge.rule([state_of(item) for item in items])
    return of_verdicts(judge, items, verdicts, source)


def _source(labelled: str, schema: str) -> str:
    from sparring.data.readers import located
    from sparring.store.files import sha256

    path = located(labelled)
    return f"{Path(path).name}, {schema}, sha256 {sha256(path)[:12]}"


def _write(output: Path, told: Sequence[Calibration]) -> None:
    from sparring.evals.judging import dumps_calibrations, read_calibrations
    from sparring.store.files import write_atomic

    new = {(one.judge, one.field) for one in told}
    old = read_calibrations(output) if output.exists() else []
    kept = [one for one in old if (one.judge, one.field) not in new]
    write_atomic(output, dumps_calibrations([*kept, *told]).encode())


def _table(told: Sequence[Calibration]) -> None:
    heads = ("sensitivity", "specificity", "F1", "alpha")
    say(f"{'judge':32s} {'field':10s} " + " ".join(f"{head:28s}" for head in heads))
    for one in told:
        cells = (one.sensitivity, one.specificity, one.f1, one.alpha)
        say(f"{one.judge:32s} {one.field:10s} " + " ".join(f"{cell!s:28s}" for cell in cells))


@judge_app.command()
def score(
    what: Annotated[Path, typer.Argument(metavar="FILE|RUN", help="JSONL, or a run's folder")],
    judge: Judges = None,
    at: Annotated[int | None, typer.Option(min=0, help="rounds; default: the last exam")] = None,
    output: Annotated[Path | None, typer.Option(help="JSONL of verdicts, resumed")] = None,
    calibration: Annotated[Path | None, typer.Option(help="to correct the rates with")] = None,
    max_unscored: MostUnscored = 0.01,
    trust_endpoints: TrustEndpoints = False,
    json: Json = False,
) -> None:
    """Judge stored replies again: verdicts as JSONL, without texts, and rates.

    The same command goes on where it was stopped, and asks again what failed. Several judges
    are a panel: each field is the first one's that fills it.
    """
    from sparring.evals.judging import corrected_rates, of_judge, rates, read_calibrations, rejudge
    from sparring.evals.results import check_unscored
    from sparring.stats.agreement import TRANSFER
    from sparring.store.files import dumps, write_atomic

    known = read_calibrations(calibration) if calibration else []
    asked = _panel(judge or [], known, trust_endpoints)
    fields = of_judge(asked, known) if calibration else {}
    stored, place = _stored(what, at)
    kept = output or place
    verdicts = rejudge(stored, asked, kept, lambda done, n: None if json else _told(done, n))
    raw = rates(stored, verdicts, asked.fills)
    corrected = corrected_rates(raw, fields)
    told = {
        "judge": {"name": asked.name, "caveat": asked.caveat},
        "rates": {name: rate.to_json() for name, rate in raw.items()},
        "corrected": {name: asdict(one) for name, one in corrected.items()},
        "agreement": _agreement(asked),
        "verdicts": str(kept),
    }
    write_atomic(kept.with_suffix(".results.json"), dumps(told))
    if json:
        print_json(told)
    for name, rate in raw.items() if not json else ():
        say(f"{name:36s} {rate}")
        if name in corrected:
            say(f"{_CORRECTED:36s} {corrected[name]}")
    note(" ".join(text for text in (asked.caveat, TRANSFER if corrected else "") if text))
    check_unscored(raw.values(), max_unscored)


def _judges(words: Sequence[str], trusted: bool) -> list[Judge]:
    """Every judge that kinds and files name, each having answered its start-up questions."""
    from sparring.runs.judges import entries, judge_of

    told = [(word, entry) for word in words for entry in entries(word, trusted)]
    return [judge_of([entry], {}, word, f"--judge {word}") for word, entry in told]


def _panel(words: Sequence[str], known: Sequence[Calibration], trusted: bool) -> Judge:
    from sparring.evals.judging import with_figures
    from sparring.runs.judges import together

    if not words:
        raise UsageError("--judge: none; wanted a kind such as keyword, or a judge's YAML file")
    return together([with_figures(judge, known) for judge in _judges(words, trusted)])


def _stored(what: Path, at: int | None) -> tuple[list[StoredGame], Path]:
    """The replies, and where their verdicts go unless told otherwise."""
    from sparring.evals.judging import games_of_file, games_of_run
    from sparring.store.folder import RunDir

    if not what.is_dir():
        return games_of_file(what), what.with_suffix(".verdicts.jsonl")
    run = RunDir.open(what)
    sat = run.exams()
    number = at if at is not None else sat[-1] if sat else 0
    return games_of_run(run, number), what / "evidence" / f"verdicts_{number:06d}.jsonl"


def _told(done: int, n: int) -> None:
    """A line whenever another tenth has been judged."""
    from sparring.evals.judging import BATCH

    if done == n or done * 10 // n > (done - BATCH) * 10 // n:
        say(f"judged     {done}/{n}")


def _agreement(judge: Judge) -> dict[str, Any]:
    """Alpha of a panel's votes on every field that two of its members ruled on just now."""
    from sparring.judges.panel import Panel
    from sparring.stats.agreement import alpha_of

    votes = judge.votes if isinstance(judge, Panel) else {}
    return {name: asdict(alpha_of(counts)) for name, counts in votes.items()}
