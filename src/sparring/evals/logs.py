"""Samples and results as Inspect AI and lm-evaluation-harness write them; untrusted text inside."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from statistics import NormalDist
from typing import Any

import yaml

from sparring.evals.folder import EvalSpec
from sparring.evals.results import Measured, Results
from sparring.exam import outcome
from sparring.games.codec import state_of
from sparring.store.files import Row, dumps, write_atomic
from sparring.store.folder import environment
from sparring.types import Player

_SHAPES = yaml.safe_load((files(__package__) / "logs.yaml").read_text("utf-8"))
_Z = NormalDist().inv_cdf(0.975)
_ROLES = {Player.ATTACKER: "user", Player.DEFENDER: "assistant"}
_SOURCES = {"user": "input", "assistant": "generate"}
Messages = Sequence[Mapping[str, str]]
"""Chat messages as JSON holds them."""


@dataclass(frozen=True)
class LoggedSample:
    """A sample with its text, and 1.0 or 0.0 for each metric under which it is scored.

    `id` is unique in its set: a source's own id may come twice. `epoch` is the draw, counted from
    1. `messages` are as the defender read and wrote them, without an attacker's thoughts; `prompt`
    are the user's.
    """

    id: str
    epoch: int
    row: Row
    messages: Messages
    prompt: Messages
    scores: Mapping[str, float]

    @classmethod
    def of(cls, row: Row, measured: Sequence[Measured]) -> LoggedSample:
        """Return a recorded row as a sample, with a score for each rate that was measured on it."""
        state = state_of(row)
        messages = [{"role": _ROLES[m.player], "content": m.sent or ""} for m in state.moves]
        prompt = [message for message in messages if message["role"] == "user"]
        outcomes = {m.reported.metric: outcome(state, m.reported.question) for m in measured}
        scores = {k: float(o.happened) for k, o in outcomes.items() if o.happened is not None}
        name = f"{row['place']}:{row['seed']['id']}"
        return cls(name, int(row["draw"]) + 1, row, messages, prompt, scores)


@dataclass(frozen=True)
class SetLog:
    """The samples of one model on one set, and what was measured of it."""

    spec: EvalSpec
    model: str
    set: str
    measured: Sequence[Measured]
    samples: Sequence[LoggedSample]

    @property
    def name(self) -> str:
        """The name in its files; a set's own name may hold anything."""
        name = self.set.replace("/", "_")
        return "".join(c if c.isalnum() or c in "._+-" else "-" for c in name)[:100]

    def values(self, length: str) -> dict[str, Any]:
        """Return what every shape may name; `length` is how a harness calls the limit in tokens."""
        sampling, card = self.spec.sampling, self.spec.sheet.sets[self.set]
        limit = {length: sampling["max_completion_length"]}
        return {
            "model": self.model,
            "dataset": card.task,
            "n": card.n,
            "draws": card.draws,
            "total": len(self.samples),
            "sampling": {"temperature": sampling["temperature"], **limit},
        }


def set_logs(results: Results, rows: Sequence[Row]) -> Iterator[SetLog]:
    """Yield every model's samples set by set; pooled groups are no sets."""
    for model, name in dict.fromkeys((str(row["model"]), str(row["set"])) for row in rows):
        measured = [m for m in results.of(model) if list(m.reported.members) == [name]]
        own = [row for row in rows if (row["model"], row["set"]) == (model, name)]
        own.sort(key=lambda row: (row["place"], row["draw"]))
        samples = [LoggedSample.of(row, measured) for row in own]
        yield SetLog(results.spec, model, name, measured, samples)


def write_inspect(results: Results, rows: Sequence[Row]) -> list[Path]:
    """Write logs into `inspect/`, named as Inspect names them."""
    where = results.folder.folder / "inspect"
    where.mkdir(exist_ok=True)
    when = results.folder.finished_at
    written = []
    for log in set_logs(results, rows):
        name = hashlib.sha256(f"{log.model}\n{log.set}".encode()).hexdigest()[:22]
        path = where / f"{when[:19].replace(':', '-')}_{log.name.replace('_', '-')}_{name}.json"
        _write_json(path, _inspect_log(log, when, name))
        written.append(path)
    return written


def _write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False).encode() + b"\n")


def _filled(shape: Any, values: Mapping[str, Any]) -> Any:
    """Return one of `logs.yaml`'s shapes with every `$name` replaced by the value of that name."""
    if isinstance(shape, dict):
        return {key: _filled(value, values) for key, value in shape.items()}
    if isinstance(shape, list):
        return [_filled(value, values) for value in shape]
    return values[shape[1:]] if isinstance(shape, str) and shape.startswith("$") else shape


def _inspect_log(log: SetLog, when: str, name: str) -> Any:
    sources = log.spec.sheet.tasks[log.spec.sheet.sets[log.set].task].sources
    values = log.values("max_tokens") | {
        "name": name,
        "when": when,
        "task": f"sparring/{log.set}",
        "location": ", ".join(source.path for source in sources),
        "sample_ids": list(dict.fromkeys(sample.id for sample in log.samples)),
        "version": environment()["versions"]["sparring"],
        "judge": log.spec.judge,
        "dataset_sha256": [source.sha256 for source in sources],
        "rate": log.measured[0].reported.name if log.measured else None,
        "scores": [_inspect_score(measured) for measured in log.measured],
        "samples": [_inspect_sample(sample, log.model) for sample in log.samples],
    }
    return _filled(_SHAPES["inspect_log"], values)


def _inspect_score(measured: Measured) -> Any:
    rate = measured.rate
    mean: dict[str, Any] = {"name": "mean", "value": rate.value, "params": {}}
    unscored, metrics = rate.n_total - rate.n_scored, {} if rate.value is None else {"mean": mean}
    own = {"metric": measured.reported.metric, "metrics": metrics}
    numbers = {"scored": rate.n_scored, "unscored": unscored}
    return _filled(_SHAPES["inspect_score"], asdict(rate) | own | numbers)


def _inspect_sample(sample: LoggedSample, model: str) -> Any:
    """An unscored sample has no score: Inspect too distinguishes that from a score of 0."""
    messages = [{**message, "source": _SOURCES[message["role"]]} for message in sample.messages]
    prompt = [message for message in messages if message["role"] == "user"]
    stop = "stop" if sample.row["finished"] else "max_tokens"
    replies = [message for message in messages[-1:] if message["role"] == "assistant"]
    verdict = {"explanation": None, "metadata": {"verdict": sample.row["verdict"]}}
    values = {
        "id": sample.id,
        "epoch": sample.epoch,
        "input": prompt[0]["content"] if len(prompt) == 1 else prompt,
        "messages": messages,
        "model": model,
        "choices": [{"message": reply, "stop_reason": stop} for reply in replies],
        "scores": {metric: {"value": value, **verdict} for metric, value in sample.scores.items()},
    }
    return _filled(_SHAPES["inspect_sample"], {**sample.row, **values})


def write_lm_eval(results: Results, rows: Sequence[Row]) -> list[Path]:
    """Write `lm_eval/MODEL/samples_TASK_TIME.jsonl` and `results_TIME.json`."""
    when = results.folder.finished_at[:19].replace(":", "-")
    by_model: dict[str, list[SetLog]] = {}
    for log in set_logs(results, rows):
        by_model.setdefault(log.model, []).append(log)
    written = []
    for model, logs in by_model.items():
        # As the harness spells it, with a digest: two models may be spelt alike.
        name = "".join(c if c.isalnum() or c in "._-" else "_" for c in model).strip("._")[:80]
        digest = hashlib.sha256(model.encode()).hexdigest()[:6]
        where = results.folder.folder / "lm_eval" / f"{name}-{digest}"
        where.mkdir(parents=True, exist_ok=True)
        for log in logs:
            path = where / f"samples_{log.name}_{when}.jsonl"
            write_atomic(path, b"".join(dumps(_lm_sample(log, sample)) for sample in log.samples))
            written.append(path)
        written.append(where / f"results_{when}.json")
        _write_json(written[-1], _lm_results(model, logs, results.spec))
    return written


def _lm_sample(log: SetLog, sample: LoggedSample) -> dict[str, Any]:
    doc = {**sample.row["seed"], "epoch": sample.epoch}
    last = sample.messages[-1]
    values = log.values("max_gen_toks") | {
        "place": sample.row["place"],
        "doc": doc,
        "prompt": json.dumps(sample.prompt),
        "reply": last["content"] if last["role"] == "assistant" else "",
        "metrics": list(sample.scores),
        "doc_hash": _digest(doc),
        "prompt_hash": _digest(sample.prompt),
        "target_hash": _digest(""),
    }
    return {**_filled(_SHAPES["lm_sample"], values), **sample.scores}


def _digest(value: Any) -> str:
    return hashlib.sha256(dumps(value)).hexdigest()


def _lm_results(model: str, logs: Sequence[SetLog], spec: EvalSpec) -> dict[str, Any]:
    tasks = {log.name: _lm_task(log) for log in logs}
    return {
        **{
            field: {name: task[field] for name, task in tasks.items()}
            for field in _SHAPES["lm_task"]
        },
        "config": {"model": "sparring", "model_args": {"pretrained": model}, "limit": None},
        "model_name": model,
        "judge": spec.judge,
    }


def _lm_task(log: SetLog) -> Any:
    metrics = [measured.reported.metric for measured in log.measured]
    values = log.values("max_gen_toks") | {
        "name": log.name,
        "rates": _lm_rates(log),
        "metric_list": [{"metric": metric, "aggregation": "mean"} for metric in metrics],
        "higher_is_better": {metric: metric == "correct" for metric in metrics},
    }
    return _filled(_SHAPES["lm_task"], values)


def _lm_rates(log: SetLog) -> dict[str, Any]:
    """The harness has a standard error where we have an interval: its width over 2 · 1.96."""
    rates: dict[str, Any] = {"alias": log.name}
    for measured in log.measured:
        interval, metric = measured.rate.ci95, measured.reported.metric
        error = (interval[1] - interval[0]) / (2 * _Z) if interval else "N/A"
        rates |= {f"{metric},none": measured.rate.value, f"{metric}_stderr,none": error}
    return rates


WRITERS = {"inspect": write_inspect, "lm-eval": write_lm_eval}
"""The writers of other harnesses' logs, by the name in `--log-format`."""
