"""Samples and results as Inspect AI and lm-evaluation-harness write them; untrusted text inside."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparring import packaged
from sparring.evals.folder import key_of
from sparring.evals.results import Measured, Results
from sparring.exam import outcome
from sparring.games.codec import state_of
from sparring.stats.rates import Z, grouped
from sparring.store.files import Row, digest, dumps, write_atomic
from sparring.store.folder import environment
from sparring.types import Player

_SHAPES = packaged.table("evals/logs.yaml")
_ROLES = {Player.ATTACKER: "user", Player.DEFENDER: "assistant"}
_SOURCES = {"user": "input", "assistant": "generate"}
Values = Mapping[str, Any]
"""What the shapes of logs.yaml may name."""


@dataclass(frozen=True)
class SetLog:
    """The samples of one model on one set, and what was measured of it, for the shapes to name."""

    measured: Sequence[Measured]
    values: Values
    samples: Sequence[Values]

    @property
    def name(self) -> str:
        """The name in its files; a set's own name may hold anything."""
        return _spelled(self.values["set"].replace("/", "_"), "._+-", "-")[:100]


def _spelled(name: str, marks: str, other: str) -> str:
    """Return a name in which every sign but letters, digits and `marks` is `other`."""
    return "".join(sign if sign.isalnum() or sign in marks else other for sign in name)


def set_logs(results: Results, rows: Sequence[Row]) -> Iterator[SetLog]:
    """Yield every model's samples set by set; pooled groups are no sets."""
    sheet, sampling = results.spec.sheet, results.spec.sampling
    for (model, name), own in grouped((key_of(row)[:2], row) for row in rows).items():
        measured = [m for m in results.of(model) if list(m.reported.members) == [name]]
        own.sort(key=lambda row: (row["place"], row["draw"]))
        card = sheet.sets[name]
        sources = sheet.tasks[card.task].sources
        values = {
            "model": model,
            "set": name,
            "dataset": card.task,
            "location": ", ".join(source.path for source in sources),
            "dataset_sha256": [source.sha256 for source in sources],
            "n": card.n,
            "draws": card.draws,
            "total": len(own),
            "temperature": sampling["temperature"],
            "max_completion_length": sampling["max_completion_length"],
            "judge": results.spec.judge,
            "rate": measured[0].reported.name if measured else None,
        }
        yield SetLog(measured, values, [{**values, **_sample(row, measured)} for row in own])


def _sample(row: Row, measured: Sequence[Measured]) -> Values:
    """Return a recorded row for the shapes of a sample; `scores` are by metric, 1.0 or 0.0.

    `id` is unique in its set: a source's own id may come twice. `epoch` is the draw, counted from
    1. The messages are as the defender read and wrote them, without an attacker's thoughts. An
    unscored sample has no score: both harnesses distinguish that from a score of 0.
    """
    state = state_of(row)
    messages = [{"role": _ROLES[m.player], "content": m.sent or ""} for m in state.moves]
    outcomes = {m.reported.metric: outcome(state, m.reported.question) for m in measured}
    return {
        **row,
        "id": f"{row['place']}:{row['seed']['id']}",
        "epoch": int(row["draw"]) + 1,
        "messages": messages,
        "prompt": [message for message in messages if message["role"] == "user"],
        "replies": [message for message in messages[-1:] if message["role"] == "assistant"],
        "scores": {k: float(o.happened) for k, o in outcomes.items() if o.happened is not None},
    }


def _filled(shape: Any, values: Values) -> Any:
    """Return one of `logs.yaml`'s shapes with every `$name` replaced by the value of that name."""
    if isinstance(shape, dict):
        return {key: _filled(value, values) for key, value in shape.items()}
    if isinstance(shape, list):
        return [_filled(value, values) for value in shape]
    return values[shape[1:]] if isinstance(shape, str) and shape.startswith("$") else shape


def _write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False).encode() + b"\n")


def write_inspect(results: Results, rows: Sequence[Row]) -> list[Path]:
    """Write logs into `inspect/`, named as Inspect names them."""
    where = results.folder.path("inspect")
    where.mkdir(exist_ok=True)
    when = results.folder.finished_at
    written = []
    for log in set_logs(results, rows):
        named = f"{log.values['model']}\n{log.values['set']}"
        values = {
            **log.values,
            "name": hashlib.sha256(named.encode()).hexdigest()[:22],
            "when": when,
            "task": f"sparring/{log.values['set']}",
            "version": environment()["versions"]["sparring"],
            "sample_ids": list(dict.fromkeys(sample["id"] for sample in log.samples)),
            "scores": [_inspect_score(measured) for measured in log.measured],
            "samples": [_inspect_sample(sample) for sample in log.samples],
        }
        set_name = log.name.replace("_", "-")
        path = where / f"{when[:19].replace(':', '-')}_{set_name}_{values['name']}.json"
        _write_json(path, _filled(_SHAPES["inspect_log"], values))
        written.append(path)
    return written


def _inspect_score(measured: Measured) -> Any:
    rate = measured.rate
    mean: dict[str, Any] = {"name": "mean", "value": rate.value, "params": {}}
    unscored, metrics = rate.n_total - rate.n_scored, {} if rate.value is None else {"mean": mean}
    own = {"metric": measured.reported.metric, "metrics": metrics, "unscored": unscored}
    return _filled(_SHAPES["inspect_score"], asdict(rate) | own)


def _inspect_sample(sample: Values) -> Any:
    messages, prompt, replies = (
        [{**message, "source": _SOURCES[message["role"]]} for message in sample[name]]
        for name in ("messages", "prompt", "replies")
    )
    stop = "stop" if sample["finished"] else "max_tokens"
    verdict = {"explanation": None, "metadata": {"verdict": sample["verdict"]}}
    own = {
        "input": prompt[0]["content"] if len(prompt) == 1 else prompt,
        "messages": messages,
        "choices": [{"message": reply, "stop_reason": stop} for reply in replies],
        "scores": {name: {"value": v, **verdict} for name, v in sample["scores"].items()},
    }
    return _filled(_SHAPES["inspect_sample"], {**sample, **own})


def write_lm_eval(results: Results, rows: Sequence[Row]) -> list[Path]:
    """Write `lm_eval/MODEL/samples_TASK_TIME.jsonl` and `results_TIME.json`."""
    when = results.folder.finished_at[:19].replace(":", "-")
    by_model = grouped((log.values["model"], log) for log in set_logs(results, rows))
    written = []
    for model, logs in by_model.items():
        # As the harness spells it, with a digest: two models may be spelt alike.
        name = _spelled(model, "._-", "_").strip("._")[:80]
        mark = hashlib.sha256(model.encode()).hexdigest()[:6]
        where = results.folder.path("lm_eval", f"{name}-{mark}")
        where.mkdir(parents=True, exist_ok=True)
        for log in logs:
            path = where / f"samples_{log.name}_{when}.jsonl"
            write_atomic(path, b"".join(dumps(_lm_sample(sample)) for sample in log.samples))
            written.append(path)
        tasks = {log.name: _lm_task(log) for log in logs}
        whole = {
            **{key: {n: task[key] for n, task in tasks.items()} for key in _SHAPES["lm_task"]},
            "config": {"model": "sparring", "model_args": {"pretrained": model}, "limit": None},
            "model_name": model,
            "judge": results.spec.judge,
        }
        written.append(where / f"results_{when}.json")
        _write_json(written[-1], whole)
    return written


def _lm_sample(sample: Values) -> dict[str, Any]:
    doc = {**sample["seed"], "epoch": sample["epoch"]}
    hashed = {"doc": doc, "prompt": sample["prompt"], "target": ""}
    values = {
        **sample,
        "doc": doc,
        "prompt": json.dumps(sample["prompt"]),
        "reply": sample["replies"][0]["content"] if sample["replies"] else "",
        "metrics": list(sample["scores"]),
        **{f"{k}_hash": digest(v) for k, v in hashed.items()},
    }
    return {**_filled(_SHAPES["lm_sample"], values), **sample["scores"]}


def _lm_task(log: SetLog) -> Any:
    """The harness has a standard error where we have an interval: its width over 2 · 1.96."""
    measured = {m.reported.metric: m.rate for m in log.measured}
    rates: dict[str, Any] = {"alias": log.name}
    for metric, rate in measured.items():
        error = (rate.ci95[1] - rate.ci95[0]) / (2 * Z) if rate.ci95 else "N/A"
        rates |= {f"{metric},none": rate.value, f"{metric}_stderr,none": error}
    values = {
        **log.values,
        "name": log.name,
        "rates": rates,
        "metric_list": [{"metric": metric, "aggregation": "mean"} for metric in measured],
        "higher_is_better": {metric: metric == "correct" for metric in measured},
    }
    return _filled(_SHAPES["lm_task"], values)


WRITERS = {"inspect": write_inspect, "lm-eval": write_lm_eval}
"""The writers of other harnesses' logs, by the name in `--log-format`."""
