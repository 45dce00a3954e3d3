"""Verbs that measure: models on prompts, and what is left to find in a run's defender."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from sparring.cli import speech
from sparring.cli.speech import Json, TrustEndpoints, answer, note
from sparring.types import UsageError

if TYPE_CHECKING:
    from sparring.evals.evaluate import Evaluation
    from sparring.evals.folder import EvalDir

Models = Annotated[
    list[str] | None,
    Argument(metavar="MODEL...", help="folders, hub names, `sandbox`, or a run's folder"),
]
Tasks = Annotated[
    str | None, Option(help="NAME, NAME=FILE, seed files or `sandbox`, separated by commas")
]
Judges = Annotated[str, Option(help="a kind or a YAML file of judges; a second judges too")]
Adapters = Annotated[list[str] | None, Option(help="a PEFT folder on the model; repeatable")]
At = Annotated[int | None, Option(min=0, help="rounds; default: the last checkpoint")]


def evaluate(
    models: Models = None,
    tasks: Tasks = None,
    judge: Judges = "sandbox",
    adapter: Adapters = None,
    base: Annotated[bool, Option(help="ask the base beside its adapters")] = True,
    revision: Annotated[str | None, Option(help="a hub model's commit, tag, branch")] = None,
    base_url: Annotated[str | None, Option(help="the models are served here (…/v1)")] = None,
    api_key_env: Annotated[str | None, Option(help="the variable that holds the key")] = None,
    chat_template_kwargs: Annotated[str | None, Option(help="YAML, for the template")] = None,
    data: Annotated[Path, Option(help="where the tasks' files lie")] = Path("data"),
    success: Annotated[str | None, Option(help="harmful | not_refused, for all")] = None,
    trained_on: Annotated[list[str] | None, Option(help="a file of training seeds")] = None,
    attacker: Annotated[Path | None, Option(help="a run: its attacker rewrites too")] = None,
    best_of: Annotated[int, Option(min=1, help="rewrites of each seed by it")] = 1,
    epochs: Annotated[int, Option(min=1, help="replies to each prompt, for ASR@k")] = 1,
    limit: Annotated[int | None, Option(min=1, help="the first openings of a set")] = None,
    temperature: Annotated[float, Option(min=0, help="0: greedy")] = 1.0,
    max_completion_length: Annotated[int, Option(min=1, help="tokens")] = 512,
    batch: Annotated[int, Option(min=1, help="prompts between two writes")] = 32,
    utility: Annotated[bool, Option("--utility", help="lm-eval's tasks too")] = False,
    seed: Annotated[int, Option(help="of the replies")] = 0,
    output: Annotated[Path | None, Option(help="default: evals/MODEL-DIGEST")] = None,
    resume: Annotated[bool, Option("--resume", help="go on where it was stopped")] = False,
    retry_unscored: Annotated[
        bool, Option("--retry-unscored", help="ask again what failed")
    ] = False,
    rescore: Annotated[Path | None, Option(help="a folder: its results again")] = None,
    calibration: Annotated[Path | None, Option(help="rates without judge's errors")] = None,
    max_unscored: Annotated[float, Option(min=0, max=1, help="share; else exit 3")] = 0.01,
    fail_if: Annotated[list[str] | None, Option(help="'harmbench.asr>0.05'; exit 4")] = None,
    trust_endpoints: TrustEndpoints = False,
    log_format: Annotated[list[str] | None, Option(help="inspect | lm-eval")] = None,
    json: Json = False,
) -> None:
    """Test models: ASR on harmful prompts, over-refusal on benign ones.

    Every reply is on disk as it comes; the same command with --resume goes on after a kill. With
    --adapter, base and adapters are compared sample by sample.
    """
    from sparring.evals.evaluate import prepared
    from sparring.evals.folder import EvalDir, default_folder
    from sparring.evals.gates import parse_gates
    from sparring.evals.models import ModelSettings
    from sparring.evals.results import results_of
    from sparring.evals.tasks import TaskSettings
    from sparring.evals.utility import utility_rates
    from sparring.players.player import Sampling
    from sparring.settings.config import load_yaml, parse

    report = _reporter(max_unscored, fail_if or [], calibration, log_format or [], json)
    if rescore:
        report(rescore)
        return
    run = speech.run_dir(attacker) if attacker else None
    if not models or not tasks:
        missing = "option '--tasks'" if models else "argument 'MODEL...'"
        raise UsageError(f"Missing {missing} (sparring eval --help)")
    template = load_yaml(chat_template_kwargs or "{}", "--chat-template-kwargs")
    kwargs = parse({"defender": {"chat_template_kwargs": template}}).defender.chat_template_kwargs
    sampling = Sampling(temperature, max_completion_length, template_kwargs=kwargs)
    names, judges, counts_as = _words(tasks), _words(judge), _success(success)
    rewrites = best_of if attacker else 0
    suite = TaskSettings(names, judges, data, limit, counts_as, epochs, rewrites, trust_endpoints)
    served, training = (base_url, api_key_env), trained_on or []
    tested = ModelSettings(models, sampling, adapter or [], base, revision, *served, training)
    tested, played = tested.unfolded()
    evaluation = prepared(suite, tested, run, batch, seed)
    more = utility_rates(evaluation.world, bool(base_url)) if utility else []
    parse_gates(fail_if or [], [*evaluation.suite.sheet.names(), *more])  # before a model is loaded
    folder = EvalDir(output or default_folder(evaluation.spec))
    folder.check(evaluation.spec, resume)
    _play(evaluation, folder, retry_unscored, utility, json)
    if played:
        results_of(folder.folder).keep(*played)
    report(folder.folder)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _success(word: str | None) -> Any:
    from sparring.exam import SUCCESS

    if word not in (None, *SUCCESS):
        raise UsageError(f"--success: {word!r:.40} is none of {', '.join(SUCCESS)}")
    return word


def _play(
    evaluation: Evaluation, folder: EvalDir, retry_unscored: bool, utility: bool, quiet: bool
) -> None:
    """Play whatever is missing in the evaluation's folder."""
    from sparring.evals.evaluate import run
    from sparring.report.progress import Bars

    note(*evaluation.notes, *evaluation.suite.notes(), *folder.other_versions())
    if folder.stage == "complete" and not (retry_unscored or utility):
        folder.keep_overlap(evaluation.overlap)
        note(f"complete already: {folder.folder}")
    else:
        with Bars(speech.console(stderr=True), quiet):
            notes = run(evaluation, folder, retry_unscored, utility)
        note(*notes)


def _reporter(
    max_unscored: float,
    gates: Sequence[str],
    calibration: Path | None,
    formats: Sequence[str],
    json: bool,
) -> Callable[[Path], None]:
    """Return what measures a folder's samples, writes and prints the results, and checks gates.

    The file of calibrations and the formats of logs are refused here, before anything is played.
    """
    from sparring.evals import judging, logs, results
    from sparring.report.pareto import drawn

    if unknown := [name for name in formats if name not in logs.WRITERS]:
        raise UsageError(f"--log-format: {unknown[0]!r:.40} is none of {', '.join(logs.WRITERS)}")
    calibrations = judging.read_calibrations(calibration) if calibration else []

    def report(path: Path) -> None:
        result = results.results_of(path, calibrations)
        rows = list(result.folder.samples.rows()) if formats else []
        files = [file for name in formats for file in logs.WRITERS[name](result, rows)]
        folders = dict.fromkeys(file.parent for file in files)
        written = [path / "results.json", *folders, *drawn(result)]
        lines = (*result.lines(), *(f"written    {file}" for file in written))
        answer(json, result.summary(), lines)
        note(result.caveat)
        result.check(gates, max_unscored)

    return report


def exploit(
    run: speech.RunFolder,
    overrides: speech.Overrides = None,
    attackers: Annotated[str, Option(help="of pool, broad, own, enumeration")] = "all",
    steps: Annotated[int, Option(min=1, help="of each attacker that learns")] = 80,
    n: Annotated[int, Option(min=1, help="games of an exam of an attacker")] = 192,
    at: At = None,
    cache: Annotated[
        Path | None, Option(help="of warmed-up attackers; default: attackers/ beside the run")
    ] = None,
    seed: Annotated[int, Option(help="of the attackers")] = 0,
    trust_endpoints: TrustEndpoints = False,
    json: Json = False,
) -> None:
    """Train attackers, fresh ones and the run's own, on its frozen defender; the worst counts."""
    from sparring.evals.exploit import Budget, Exploit, attackers_of
    from sparring.report.progress import Bars
    from sparring.settings.config import from_words

    opened, cache = speech.run_dir(run), cache or run.parent / "attackers"
    number, over = opened.checkpoints.at(at), from_words(overrides or [])
    budget = Budget.of(opened.config, steps, n)
    exploit = Exploit(opened, number, budget, cache, seed, trust_endpoints, over)
    with Bars(speech.console(stderr=True), json):
        result = exploit.measure(attackers_of(opened.config, attackers))
    lines = []
    for name, curve in result["attackers"].items():
        rates = " ".join(_short(rate["value"]) for rate in curve["asr"])
        lines.append(f"{name:12s} ASR at {curve['steps']}: {rates}  ({curve['tried']})")
    answer(json, result, [*lines, f"worst: {result['worst'] or 'unscored'}"])


def crossplay(
    runs: speech.RunFolders,
    at: Annotated[str, Option(help="rounds, with commas; default: the last")] = "",
    n: Annotated[int, Option(min=1, help="games of a cell")] = 192,
    cache: Annotated[Path | None, Option(help="where played cells are kept")] = None,
    trust_endpoints: TrustEndpoints = False,
    json: Json = False,
) -> None:
    """Every attacker of the runs against every defender: ASR by the clean outcome."""
    from sparring.evals.crossplay import cross, entrants
    from sparring.report.page import labels
    from sparring.report.progress import Bars
    from sparring.report.terminal import matrix
    from sparring.store.records import CrossplayResults

    players, numbers = [], rounds_of(at)
    for run, name in zip(runs, labels(runs), strict=True):
        players += entrants(speech.run_dir(run), numbers, name, trust_endpoints)
    with Bars(speech.console(stderr=True), json):
        result = cross(players, n, cache or runs[0].parent / "crossplay")
    if json:
        speech.print_json(result)
    else:
        speech.console().print(matrix(CrossplayResults.model_validate(result).asr, n))


def _short(value: float | None, unscored: str = "unscored") -> str:
    """Return a rate as a line for a person shows it."""
    return unscored if value is None else f"{value:.3f}"


def rounds_of(text: str) -> list[int]:
    """Return the numbers of rounds in a text such as `0,40,160`."""
    words = _words(text)
    if wrong := [word for word in words if not word.isdecimal()]:
        raise UsageError(f"--at: {wrong[0]!r:.40} is no number of rounds; wanted such as 0,40,160")
    return [int(word) for word in words]


def bound(
    run: speech.RunFolder,
    at: At = None,
    confidence: Annotated[float, Option(min=0.5, max=0.9999, help="joint")] = 0.95,
    json: Json = False,
) -> None:
    """An upper limit on how often the run's defender fails, by attack family of its exam."""
    from sparring.evals.crossplay import items, last_exam
    from sparring.stats.bound import bound as bound_of
    from sparring.store.files import dumps
    from sparring.store.records import BoundResults

    opened = speech.run_dir(run)
    number = last_exam(opened) if at is None else at
    rates = items(opened, number)
    families = {k[4:]: list(v.values()) for k, v in rates.items() if k.startswith("asr/")}
    result = bound_of(families, confidence)
    record = BoundResults.model_validate({"rounds": number, **asdict(result)})
    opened.evidence.write("evidence/bound.json", dumps(record.to_json()))
    lines = [
        f"{name:24s} {family.failures}/{family.n} failed, effective n "
        f"{family.effective_n:.0f}: at most {family.upper:.3f}"
        for name, family in result.families.items()
    ]
    answer(json, asdict(result), [*lines, result.caveat])


def compare(
    first: Annotated[Path, Argument(help="a run's folder")],
    second: Annotated[Path, Argument(help="another that ran the same exam")],
    at: At = None,
    json: Json = False,
) -> None:
    """The paired difference of two runs on the same exam items, second minus first."""
    from sparring.evals.crossplay import compared

    differences = compared(speech.run_dir(first), speech.run_dir(second), at, note)
    n = len(differences)
    lines = [f"{second} minus {first}, 95 % intervals; {n} comparisons, each p for itself"]
    for name, paired in differences.items():
        rates = f"{_short(paired.rate_a, '–')} → {_short(paired.rate_b, '–')}"
        lines.append(f"{name:32s} {rates}  {paired}")
    answer(json, {name: asdict(paired) for name, paired in differences.items()}, lines)
