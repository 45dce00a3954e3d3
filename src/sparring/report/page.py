"""From runs to one HTML page that needs nothing but itself, and what a terminal is shown."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from rich.console import Console
from rich.text import Text

from sparring.report import curves, figures, run_report, terminal
from sparring.report.escape import line, name, visible
from sparring.report.plots import COLUMN, DARK, LIGHT, Drawing, images, packaged
from sparring.report.run_report import (
    RunReport,
    counted,
    headline_key,
    interval,
    own,
    read_run,
    strongest,
    value,
)
from sparring.settings.config import load_yaml
from sparring.stats.rates import Rate
from sparring.store.files import write_atomic, writing
from sparring.store.folder import RunDir
from sparring.store.records import ExamResults
from sparring.types import UsageError

SECURITY = (
    "default-src 'none'; img-src data:; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'"
)
METRICS = (
    ("asr", "ASR", "lower"),
    ("over_refusal", "Over-refusal", "lower"),
    ("correct", "Correct on benign", "higher"),
)
"""A metric, its title, and the way it should go."""
WITHHELD = "(withheld)"
_PASSWORD = re.compile(r"(://)[^/@\s]+@")
_SECRET = re.compile(r"(?im)^(\s*[\w-]*(?:api_?key|secret|password|token)\s*:[ \t]*)\S.*$")
_BUDGET = ("steps", "seeds", "num_generations", "n", "tries")


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """What to report on, and how much of it to show; `output` is the page, or its folder."""

    runs: Sequence[Path]
    output: Path | None = None
    public: bool = False
    include_harmful: bool = False

    def __post_init__(self) -> None:
        if self.public and self.include_harmful:
            raise UsageError("--public shows no harmful text; leave out --include-harmful")
        if not self.runs:
            raise UsageError("RUN: name at least one run's folder")

    def read(self) -> list[RunReport]:
        """Read every run; UsageError where one is none, or had no exam yet."""
        named = zip(self.runs, labels(self.runs), strict=True)
        return [read_run(RunDir.open(run), label) for run, label in named]

    @property
    def page(self) -> Path:
        """Where the page goes; a link in somebody else's run is not followed."""
        if self.output is None:
            folder = self.runs[0] / "report"
            if folder.is_symlink():
                raise UsageError(f"{folder}: is a link; say with --output where the page should go")
            return folder / "index.html"
        is_page = self.output.suffix in (".html", ".htm") and not self.output.is_dir()
        return self.output if is_page else self.output / "index.html"


def labels(runs: Sequence[Path]) -> list[str]:
    """Return the runs' own names, or where two have the same, their paths."""
    names = [run.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]


def report(request: ReportRequest, console: Console, as_json: bool) -> None:
    """Write the page and show a person what came of the runs; or print it all as JSON alone."""
    runs = request.read()
    if as_json:
        summaries = [run.to_json() for run in runs]
        shown = summaries if len(summaries) > 1 else summaries[0]
        console.file.write(json.dumps(shown, indent=2) + "\n")
        if request.output:
            write_report(request)
        return
    page = write_report(request)
    for run in runs:
        console.print(terminal.render(run))
    console.print(Text(f"\nreport     {line(str(page))}"), soft_wrap=True)


def write_report(request: ReportRequest | str | Path) -> Path:
    """Write `index.html`, and beside it `figures/` as SVG and PNG; return the page's path.

    A run's folder stands for a report on that run alone.
    """
    request = request if isinstance(request, ReportRequest) else ReportRequest([Path(request)])
    target = request.page
    page = render(request.read(), request.public, request.include_harmful)
    folder = target.parent / "figures"
    if folder.is_symlink():
        raise UsageError(f"{folder}: is a link; nothing is written through it")
    with writing(target.parent.parent):
        folder.mkdir(parents=True, exist_ok=True)
    for file, data in page.figures.items():
        write_atomic(folder / file, data)
    write_atomic(target, page.html.encode("utf-8"))
    return target


@dataclass(frozen=True, slots=True)
class Page:
    """The page, and its figures as files by name."""

    html: str
    figures: dict[str, bytes]


def render(runs: Sequence[RunReport], public: bool, include_harmful: bool) -> Page:
    """Make the page of one or several runs."""
    groups = drawings(runs)
    drawn = {
        drawing.name: (images(drawing, LIGHT, ("svg", "png")), images(drawing, DARK, ("svg",)))
        for group in groups.values()
        for drawing in group
    }
    files = {f"{key}.svg": light[0] for key, (light, _) in drawn.items()}
    files |= {f"{key}.png": light[1] for key, (light, _) in drawn.items()}
    uris = {key: (_uri(light[0]), _uri(dark[0])) for key, (light, dark) in drawn.items()}
    return Page(html(runs, groups, uris, public, include_harmful), files)


def drawings(runs: Sequence[RunReport]) -> dict[str, list[Drawing]]:
    """Return the figures of every part of the page."""
    crossed = [run for run in runs if run.crossplay]
    rewritten = [run for run in runs if len(run.strategies) > 1]
    named = run_report.by_size(shares for run in rewritten for _, shares in run.strategies)
    by_family = [
        figures.family_figure(runs, metric, title)
        for metric, title, _ in METRICS
        if run_report.families(runs[0].after.rates, metric)
    ]
    return {
        "headline": by_family[: 2 if len(runs) > 1 else 1],
        **{
            f"exploit{_suffix(runs, run)}": [
                figures.exploit_figure(run.exploit, f"exploit{_suffix(runs, run)}")
            ]
            for run in runs
            if run.exploit
        },
        "curves": curves.panels("curves", runs),
        "crossplay": [
            figures.crossplay_figure(run.crossplay, run.label, f"crossplay{_suffix(runs, run)}")
            for run in crossed
            if run.crossplay
        ],
        "strategies": [
            figures.strategy_figure(run, f"strategies{_suffix(runs, run)}", named)
            for run in rewritten
        ],
        "pool": curves.panels("pool", runs),
    }


def _suffix(runs: Sequence[RunReport], run: RunReport) -> str:
    """What tells the parts and figures of one of several runs from the others'."""
    return f"-{runs.index(run) + 1}" if len(runs) > 1 else ""


def html(
    runs: Sequence[RunReport],
    groups: Mapping[str, Sequence[Drawing]],
    uris: Mapping[str, tuple[str, str]],
    public: bool,
    include_harmful: bool,
) -> str:
    """Fill the template; `uris` are the figures by name, in light and in dark."""
    css = packaged("report.css")
    facts = [dict(_facts(run, public)) for run in runs]
    environment = _environment()
    environment.filters |= {
        "suffix": lambda run: _suffix(runs, run),
        "whose": lambda run: f": {name(run.label)}" if len(runs) > 1 else "",
    }
    page = environment.from_string(packaged("report.html.j2")).render(
        runs=runs,
        figures=groups,
        images=uris,
        column=COLUMN,
        css=Markup(css),
        security=SECURITY.format(base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()),
        title=" · ".join(name(run.label, 60) for run in runs),
        kind="harmful" if include_harmful else "public" if public else "redacted",
        judges=_judges(runs),
        all_keys=list(dict.fromkeys(key for run in runs for key in run.after.rates)),
        lanes=curves.differ(runs),
        attacks=[
            (f"{title}: {name(run.label)}", find(run.run, include_harmful))
            for run in runs
            for find, title in (
                (strongest, "Fixed attacks of the exams, by family"),
                (own, "The attacker's own, by recorded round"),
            )
        ],
        facts=facts,
        fact_names=list(dict.fromkeys(key for values in facts for key in values)),
        configs=[(run.label, shown_config(run.run.config_yaml, public)) for run in runs],
    )
    return page.lstrip()  # macros leave blank lines


def _environment() -> Environment:
    """Every value is spelled out where it would hide, then escaped; only the template is markup."""
    environment = Environment(
        autoescape=True, finalize=_shown, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "name": name,
        "value": value,
        "interval": interval,
        "counted": counted,
        "missing": missing,
        "apart": _apart,
        "held_out": _held_out,
        "has_held_out": _has_held_out,
        "counts": _counts,
        "families": run_report.families,
        "spendable": lambda budget: all(budget.get(key) for key in _BUDGET),
        "moment": lambda rounds: "start" if rounds == "0" else name(rounds),
        "duration": duration,
    }
    environment.globals |= {
        "metrics": METRICS,
        "pooled": run_report.POOLED,
        "headline_key": headline_key,
        "sides": run_report.sides,
        "spread": run_report.spread,
        "by_size": run_report.by_size,
    }
    return environment


def _shown(text: Any) -> Any:
    return visible(text) if isinstance(text, str) and not isinstance(text, Markup) else text


def _uri(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


def missing(rate: Rate | None) -> str:
    """Say why some items were not scored, and how far they could move the rate; '' for none."""
    if rate is None or rate.n_scored == rate.n_total:
        return ""
    causes = ", ".join(f"{name(cause)} {n}" for cause, n in rate.unscored.items())
    low, high = rate.bounds
    return (
        f"{rate.n_total - rate.n_scored} unscored ({causes or 'cause unknown'}), "
        f"{low:.3f}–{high:.3f} whichever way they count"
    )


def _apart(a: Rate | None, b: Rate | None) -> bool:
    """Say whether two intervals do not touch."""
    if a is None or b is None or a.ci95 is None or b.ci95 is None:
        return False
    return a.ci95[1] < b.ci95[0] or b.ci95[1] < a.ci95[0]


def _held_out(exam: ExamResults, key: str) -> Rate | None:
    return exam.held_out_judge.rates.get(key) if exam.held_out_judge else None


def _has_held_out(run: RunReport, metric: str) -> bool:
    judges = [exam.held_out_judge for exam in run.exams]
    return any(judge and headline_key(judge.rates, metric) for judge in judges)


def _counts(run: RunReport, metric: str, families: Iterable[str]) -> tuple[str, ...]:
    return tuple(counted(run.after.rates.get(f"{metric}/{family}")) for family in families)


def _judges(runs: Sequence[RunReport]) -> list[tuple[str, str, str]]:
    """Return (role, judge, caveat) of every run, once each; the held-out ones come last."""
    judges = [("judge", run.after.judge) for run in runs]
    judges += [("held-out judge", j) for run in runs if (j := run.after.held_out_judge)]
    named = [(role, name(judge.name), name(judge.caveat, 1000)) for role, judge in judges]
    return list(dict.fromkeys(named))


def _facts(run: RunReport, public: bool) -> Iterator[tuple[str, str]]:
    """Yield what a reader needs to know to play a run again, and what it took."""
    status = run.run.status
    if not public:
        yield "folder", name(str(run.run.folder), 300)
    yield "status", name(status.status)
    yield "ended", name(status.time)
    yield "rounds played", f"{len(run.turns):,}"
    yield "judge", name(run.after.judge.name)
    if run.after.held_out_judge:
        yield "held-out judge", name(run.after.held_out_judge.name)
    phases = ", ".join(f"{name(phase)} {duration(s)}" for phase, s in run.seconds.items())
    yield "wall time of the rounds", f"{duration(sum(run.seconds.values()))} ({phases})"
    for key, count in run.counts.items():
        yield name(key.replace("/", ", ").replace("_", " ")), f"{count:,.0f}"
    environment = run.run.environment
    for key, fact in environment.to_json().items() if environment else ():
        if isinstance(fact, Mapping):
            yield name(key), " · ".join(f"{name(str(k))} {name(str(v))}" for k, v in fact.items())
        else:
            yield name(key), name(str(fact))


def duration(seconds: float) -> str:
    """Return hours, minutes and seconds, the largest two of them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def shown_config(text: str, public: bool) -> str:
    """Return the configuration without passwords; in public also without attackers or places."""
    if public:
        try:
            tree = load_yaml(text, "config.yaml")
        except UsageError:
            return "(not shown: it is not plain YAML)"
        defender = tree.get("defender") if isinstance(tree, dict) else None
        base = defender.get("model_name_or_path") if isinstance(defender, dict) else None
        text = yaml.safe_dump(_public(tree, "", base), sort_keys=False)
    return _PASSWORD.sub(rf"\1{WITHHELD}@", _SECRET.sub(rf"\1{WITHHELD}", text))


def _public(node: Any, where: str, base: Any) -> Any:
    """Return a part of a configuration without attackers' weights, folders and endpoints."""
    if isinstance(node, Mapping):
        return {key: _public(child, f"{where}.{key}", base) for key, child in node.items()}
    if isinstance(node, list):
        return [_public(child, where, base) for child in node]
    if not isinstance(node, str):
        return node
    weights = where in (".attacker.model_name_or_path", ".attacker.warm_start")
    others = weights and node not in (base, "sandbox")
    if others or "attacker" in PurePath(node).parts or "://" in node:
        return WITHHELD
    place = node.startswith(("/", "~", ".", "\\")) or node.count("/") > 1 or where == ".output_dir"
    return PurePath(node).name if place else node
