"""From runs to one HTML page that needs nothing but itself, and what a terminal is shown."""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from glob import escape
from pathlib import Path, PurePath
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from rich.console import Console
from rich.text import Text

from sparring import packaged
from sparring.door import inside
from sparring.pulse import beat
from sparring.report import figures, games, terminal
from sparring.report import run_report as reading
from sparring.report.escape import duration, hidden, line, name, visible
from sparring.report.plots import COLUMN, DARK, LIGHT, Drawing, images
from sparring.report.run_report import RunReport, counted, headline_key
from sparring.settings.config import load_yaml
from sparring.stats.rates import Rate
from sparring.store.files import sweep, write_atomic, writing
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


def labels(runs: Sequence[Path]) -> list[str]:
    """Return the runs' own names, or where two have the same, their paths."""
    names = [run.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]


def read_all(runs: Sequence[Path]) -> list[RunReport]:
    """Read every run; UsageError for a folder that is no run or has no exam."""
    named = zip(runs, labels(runs), strict=True)
    return [reading.read_run(RunDir.open(run), label) for run, label in named]


def show(runs: Sequence[Path], page: Path | None, console: Console, as_json: bool) -> None:
    """Show a person what came of the runs, and where their `page` is; or print JSON alone."""
    reports = read_all(runs)
    if as_json:
        summaries = [run.to_json() for run in reports]
        shown = summaries if len(summaries) > 1 else summaries[0]
        console.file.write(json.dumps(shown, indent=2) + "\n")
        return
    for run in reports:
        console.print(terminal.render(run))
    console.print(Text(f"\nreport     {line(str(page))}"), soft_wrap=True)


def write_report(
    runs: Sequence[Path] | str | Path,
    output: Path | None = None,
    public: bool = False,
    include_harmful: bool = False,
) -> Path:
    """Write `index.html`, and beside it `figures/` as SVG and PNG; return the page's path.

    `output` is the page or its folder, by default report/ in the first run; links there are
    not followed, as it may be somebody else's.
    """
    if public and include_harmful:
        raise UsageError("--public shows no harmful text; leave out --include-harmful")
    folders = [Path(runs)] if isinstance(runs, str | Path) else runs
    if not folders:
        raise UsageError("RUN: name at least one run's folder")
    target = output or inside(folders[0], "report", "index.html")
    if target.suffix not in (".html", ".htm") or target.is_dir():
        target /= "index.html"
    page, pictures = render(read_all(folders), public, include_harmful)
    folder = inside(target.parent, "figures")
    with writing(target.parent.parent):
        folder.mkdir(parents=True, exist_ok=True)
    sweep(folder, "*")
    sweep(target.parent, escape(target.name))
    for file, data in pictures.items():
        write_atomic(folder / file, data)
    write_atomic(target, page.encode("utf-8"))
    return target


def render(
    runs: Sequence[RunReport], public: bool, include_harmful: bool
) -> tuple[str, dict[str, bytes]]:
    """Return the page of one or several runs, and its figures as files by name."""
    groups = drawings(runs)
    files: dict[str, bytes] = {}
    uris: dict[str, tuple[str, str]] = {}
    flat = [drawing for group in groups.values() for drawing in group]
    for number, drawing in enumerate(flat):
        beat("drawing figures", number, len(flat))
        svg, png = images(drawing, LIGHT, ("svg", "png"))
        [dark] = images(drawing, DARK, ("svg",))
        files |= {f"{drawing.name}.svg": svg, f"{drawing.name}.png": png}
        uris[drawing.name] = _uri(svg), _uri(dark)
    return html(runs, groups, uris, public, include_harmful), files


def drawings(runs: Sequence[RunReport]) -> dict[str, list[Drawing]]:
    """Return the figures of every part of the page."""
    rewritten = [run for run in runs if len(run.strategies) > 1]
    named = reading.by_size(shares for run in rewritten for _, shares in run.strategies)
    by_family = [
        figures.family_figure(runs, metric, title)
        for metric, title, _ in METRICS
        if reading.families(runs[0].after.rates, metric)
    ]
    first = [*figures.panels("first", runs), *by_family[: 2 if len(runs) > 1 else 1]]
    parts = {"headline": first, "crossplay": [], "strategies": []}
    for run in runs:
        suffix = _suffix(runs, run)
        if run.exploit:
            parts[f"exploit{suffix}"] = [figures.exploit_figure(run.exploit, f"exploit{suffix}")]
        if run.crossplay:
            matrix = figures.crossplay_figure(run.crossplay, run.label, f"crossplay{suffix}")
            parts["crossplay"].append(matrix)
        if run in rewritten:
            stacked = figures.strategy_figure(run, f"strategies{suffix}", named)
            parts["strategies"].append(stacked)
    return parts | {group: figures.panels(group, runs) for group in ("curves", "training", "pool")}


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
    """Fill the template; `uris` are the figures by name, in light and in dark.

    Every value is spelled out where it would hide, then escaped; only the template is markup.
    """
    environment = Environment(
        autoescape=True, finalize=_shown, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {function.__name__: function for function in FILTERS} | {
        "suffix": lambda run: _suffix(runs, run),
        "family": lambda family: name(reading.family_name(runs, family)),
        "whose": lambda run: f": {name(run.label)}" if len(runs) > 1 else "",
    }
    environment.globals |= {function.__name__: function for function in FUNCTIONS}
    shown = games.for_page(runs, public, include_harmful)
    choices = {
        "outcomes": list(games.OUTCOMES),
        "kinds": [f"k{n}" for n in range(len(shown["kinds"]))],
    }
    css = environment.from_string(packaged.text("report/templates/report.css")).render(choices)
    facts = [dict(_facts(run, public)) for run in runs]
    page = environment.from_string(packaged.text("report/templates/report.html.j2")).render(
        runs=runs,
        figures=groups,
        images=uris,
        column=COLUMN,
        metrics=METRICS,
        pooled=reading.POOLED,
        css=Markup(css),
        security=SECURITY.format(base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()),
        title=" · ".join(name(run.label, 60) for run in runs),
        judges=_judges(runs),
        all_keys=list(dict.fromkeys(key for run in runs for key in run.after.rates)),
        lanes=figures.differ(runs),
        **shown,
        facts=facts,
        fact_names=list(dict.fromkeys(key for values in facts for key in values)),
        configs=[(run.label, shown_config(run.run.config_yaml, public)) for run in runs],
    )
    return page.lstrip()  # macros leave blank lines


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


def held_out(exam: ExamResults, key: str) -> Rate | None:
    """Return an exam's rate under the held-out judge."""
    return exam.held_out_judge.rates.get(key) if exam.held_out_judge else None


def has_held_out(run: RunReport, metric: str) -> bool:
    """Say whether a held-out judge ruled on a metric in any exam of a run."""
    judges = [exam.held_out_judge for exam in run.exams]
    return any(judge and headline_key(judge.rates, metric) for judge in judges)


def counts(run: RunReport, metric: str, families: Iterable[str]) -> tuple[str, ...]:
    """Return how many items were scored of each family in the last exam."""
    return tuple(counted(run.after.rates.get(f"{metric}/{family}")) for family in families)


def has_all(budget: Mapping[str, int]) -> bool:
    """Say whether a budget of `sparring exploit` holds everything that the page says of it."""
    return all(budget.get(key) for key in ("steps", "seeds", "num_generations", "n", "tries"))


def moment(rounds: str) -> str:
    """Return the name of a checkpoint."""
    return "start" if rounds == "0" else name(rounds)


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
        parts = fact.items() if isinstance(fact, Mapping) else [(fact,)]
        yield name(key), " · ".join(" ".join(name(str(word)) for word in part) for part in parts)


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


_OWN = (counted, counts, duration, has_held_out, held_out, hidden, missing, moment, name, has_all)
FILTERS = (*_OWN, reading.apart, reading.families, reading.interval, reading.value)
FUNCTIONS = (headline_key, reading.by_size, reading.sides, reading.spread)
"""What the template may use, by their names."""
