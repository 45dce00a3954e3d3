"""Verbs about judges: probe one, calibrate it on labelled replies, let it judge stored ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option, Typer

from sparring.cli import speech
from sparring.cli.speech import Json, TrustEndpoints, answer, note, say
from sparring.data.rows import located
from sparring.types import UsageError

if TYPE_CHECKING:
    from sparring.evals.judging import Calibration, Games
    from sparring.judges.judge import Judge

judge_app = Typer(no_args_is_help=True, help="Measure judges, and let them judge again.")
Judges = Annotated[list[str] | None, Option("--judge", help="a kind, or a judge's YAML file")]
MostUnscored = Annotated[float, Option(help="share; above it exit code 3")]


@judge_app.command()
def probe(
    what: Annotated[str, Argument(metavar="KIND|FILE", help="a kind, or a YAML file")],
    trust_endpoints: TrustEndpoints = False,
    json: Json = False,
) -> None:
    """Ask a judge what is known of a few plain exchanges, and say which it gets right.

    Exit code 2 where a judge is right on no more than half of one side of a field.
    """
    from sparring.judges.probe import probe as probed
    from sparring.runs.judges import entries, greet, judge_of

    failed: list[str] = []
    rows: list[dict[str, Any]] = []
    for entry in entries(what, trust_endpoints):
        greet([(what, entry)])
        judge = judge_of([entry], {}, what, what, prove=False)
        result = probed(judge)
        items = [{"item": name, "right": right} for name, right, _ in result.items]
        rows.append({"judge": judge.name, "wrong": result.wrong, "items": items})
        failed += [f"{judge.name} {wrong}" for wrong in result.wrong]
        if not json:
            for _, right, answered in result.items:
                say(f"{'right' if right else 'WRONG'}  {answered}")
            n = sum(right for _, right, _ in result.items)
            say(f"{judge.name}: {n} of {len(result.items)} right")
        note(judge.caveat)
    answer(json, rows, ())
    if failed:
        raise UsageError("; ".join(failed))


@judge_app.command()
def calibrate(
    labelled: Annotated[str, Argument(metavar="LABELLED_FILE", help="replies with labels")],
    judge: Judges = None,
    stored: Annotated[bool, Option("--stored", help="the verdicts in the file too")] = False,
    behaviors: Annotated[Path | None, Option(help="HarmBench's behaviors, by id")] = None,
    limit: Annotated[int | None, Option(min=1, help="replies")] = None,
    output: Annotated[Path, Option(help="JSON")] = Path("calibration.json"),
    max_unscored: MostUnscored = 0.01,
    trust_endpoints: TrustEndpoints = False,
    json: Json = False,
) -> None:
    """How often judges err, against people's labels: sensitivity, specificity, F1, alpha.

    Without --judge: the judges whose verdicts stand in the file. Figures of another judge that
    the output already holds stay there.
    """
    from sparring.data.readers import read_labelled
    from sparring.door import sha256
    from sparring.evals.judging import of_stored, of_verdicts, state_of, with_figures
    from sparring.evals.results import check_unscored

    judges = _judges(judge or [], trust_endpoints)
    replies = read_labelled(labelled, behaviors, limit)
    path = located(labelled)
    source = f"{Path(path).name}, {replies.schema}, sha256 {sha256(path)[:12]}"
    known = of_stored(replies.items, source) if stored or not judges else []
    if not known and not judges:
        raise UsageError(f"{labelled}: no judge's verdicts stand in it; name one with --judge")
    note(*(() if json else replies.notes))
    states, measured = [state_of(item) for item in replies.items], []
    for ruling in judges:
        measured += of_verdicts(ruling, replies.items, ruling.rule(states), source)
    calibrations = [*known, *measured]
    _write(output, calibrations)
    written = {"calibrations": [asdict(row) for row in calibrations], "written": str(output)}
    answer(json, written, [*_table(calibrations), f"written    {output}"])
    note(*(with_figures(ruling, calibrations).caveat for ruling in judges))
    # What the file lacks of a stored judge's verdicts, asking again cannot cure.
    check_unscored([calibration.accuracy for calibration in measured], max_unscored)


def _write(output: Path, calibrations: Sequence[Calibration]) -> None:
    """Add calibrations to a file, in the place of earlier ones of the same judges and fields."""
    from sparring.evals.judging import dumps_calibrations, read_calibrations
    from sparring.store.files import write_atomic

    fresh = {(calibration.judge, calibration.field) for calibration in calibrations}
    earlier = read_calibrations(output) if output.exists() else []
    others = [row for row in earlier if (row.judge, row.field) not in fresh]
    write_atomic(output, dumps_calibrations([*others, *calibrations]).encode())


def _table(calibrations: Sequence[Calibration]) -> Iterator[str]:
    rows: list[tuple[object, ...]] = [
        ("judge", "field", "sensitivity", "specificity", "F1", "alpha")
    ]
    rows += [(c.judge, c.field, c.sensitivity, c.specificity, c.f1, c.alpha) for c in calibrations]
    for judge, field, *cells in rows:
        yield f"{judge:32s} {field:10s} " + " ".join(f"{cell!s:28s}" for cell in cells)


@judge_app.command()
def score(
    what: Annotated[Path, Argument(metavar="FILE|RUN", help="JSONL, or a run's folder")],
    judge: Judges = None,
    at: Annotated[int | None, Option(min=0, help="rounds; default: the last exam")] = None,
    output: Annotated[Path | None, Option(help="JSONL of verdicts, resumed")] = None,
    calibration: Annotated[Path | None, Option(help="to correct the rates with")] = None,
    max_unscored: MostUnscored = 0.01,
    trust_endpoints: TrustEndpoints = False,
    json: Json = False,
) -> None:
    """Judge stored replies again: verdicts as JSONL, without texts, and rates.

    The same command goes on where it was stopped, and asks again what failed. Several judges
    are a panel: each field is the first one's that fills it.
    """
    from sparring.evals import judging
    from sparring.evals.results import WITHOUT_ERRORS, check_unscored
    from sparring.judges.judge import describe
    from sparring.report.progress import Bars
    from sparring.runs.judges import together
    from sparring.stats.agreement import TRANSFER
    from sparring.store.files import dumps, write_atomic

    if not judge:
        raise UsageError("--judge: none; wanted a kind such as keyword, or a judge's YAML file")
    known = judging.read_calibrations(calibration) if calibration else []
    judges = _judges(judge, trust_endpoints)
    if calibration and len(judges) > 1:
        raise UsageError("--calibration: takes one --judge, whose errors it has; got a panel")
    panel = together([judging.with_figures(member, known) for member in judges])
    card = describe(panel).to_json()
    calibrations = judging.calibrations_of(card, panel.fills, known) if calibration else {}
    games, default = _stored(what, at)
    file = output or default
    with Bars(speech.console(stderr=True), json):
        verdicts = judging.rejudge(games, panel, file)
    rates = judging.rates(games, verdicts, panel.fills)
    every = {n: judging.without_errors(n, rate, calibrations) for n, rate in rates.items()}
    corrected = {name: number for name, number in every.items() if number}
    results = {
        "judge": {"name": panel.name, "caveat": panel.caveat},
        "rates": {name: rate.to_json() for name, rate in rates.items()},
        "corrected": {name: asdict(number) for name, number in corrected.items()},
        "agreement": _agreement(panel),
        "verdicts": str(file),
    }
    write_atomic(file.with_suffix(".results.json"), dumps(results))
    lines = []
    for name, rate in rates.items():
        lines.append(f"{name:36s} {rate}")
        if name in corrected:
            lines.append(f"{WITHOUT_ERRORS:36s} {corrected[name]}")
    answer(json, results, lines)
    note(" ".join(filter(None, (panel.caveat, TRANSFER if corrected else ""))))
    check_unscored(rates.values(), max_unscored)


def _judges(words: Sequence[str], trusted: bool) -> list[Judge]:
    """Return every judge that kinds and files name, its start-up questions answered."""
    from sparring.runs.judges import entries, greet, judge_of

    # Every file is read before the first judge is loaded.
    named = [(word, entry) for word in words for entry in entries(word, trusted)]
    greet((f"--judge {word}", entry) for word, entry in named)
    return [judge_of([entry], {}, word, f"--judge {word}") for word, entry in named]


def _stored(what: Path, at: int | None) -> tuple[Games, Path]:
    """Return the replies, and where their verdicts go by default."""
    from sparring.evals.crossplay import recorded_games
    from sparring.evals.judging import games_of_file

    if not what.is_dir():
        return games_of_file(what), what.with_suffix(".verdicts.jsonl")
    run = speech.run_dir(what)
    number = max(run.exams(), default=0) if at is None else at
    return recorded_games(run, number), what / "evidence" / f"verdicts_{number:06d}.jsonl"


def _agreement(judge: Judge) -> dict[str, Any]:
    """Return alpha of a panel's votes on every field that two of its members ruled on just now."""
    from sparring.judges.panel import Panel
    from sparring.stats.agreement import alpha_of

    votes = judge.votes if isinstance(judge, Panel) else {}
    return {name: asdict(alpha_of(counts)) for name, counts in votes.items()}


@judge_app.command("train")
def train_judge(
    labelled: Annotated[list[str], Argument(metavar="LABELLED_FILE...", help="one a source")],
    out: Annotated[Path, Option(help="the judge's folder")],
    model: Annotated[str | None, Option(help="read its hidden states; none: words")] = None,
    prompts: Annotated[Path | None, Option(help="a file of prompt ids, one a line")] = None,
    seed: Annotated[int, Option(help="of the made negatives and the folds")] = 0,
    json: Json = False,
) -> None:
    """Fit a small judge to replies that people called refusals or not: kind `linear`.

    It also learns whether a reply is about its request, from negatives that are made of the same
    replies. Its card says how often it is right on prompts and files that were left out together.
    """
    from sparring.evals import judge_training as training
    from sparring.judges.linear import CARD, WEIGHTS
    from sparring.runs.judges import features_named
    from sparring.store.files import write_atomic

    if out.exists():
        raise UsageError(f"--out: {out} exists; remove it, or name another folder")
    ids = prompts.read_text("utf-8").split() if prompts else []
    examples = training.labelled_examples([Path(path) for path in labelled], ids)
    features = features_named("hidden" if model else "words", model, "--model")
    judge, weights = training.train_judge(examples, features, f"{seed}")
    out.mkdir(parents=True)
    write_atomic(out / WEIGHTS, weights)
    write_atomic(out / CARD, judge.card.model_dump_json(indent=1).encode() + b"\n")
    rates = judge.card.rates.items()
    lines = [f"{name:24s} {share} n={share.n_scored}" for name, share in rates]
    answer(json, judge.card.model_dump(), [*lines, f"written    {out}"])
    note(judge.caveat)
