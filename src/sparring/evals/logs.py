"""Samples and results as Inspect AI and lm-evaluation-harness write them; untrusted text inside."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

from sparring.evals.folder import EvalSpec, SetCard
from sparring.evals.results import Measured, Results
from sparring.exam import outcome
from sparring.games.codec import state_of
from sparring.store.files import Row, dumps, write_atomic
from sparring.store.folder import environment
from sparring.types import Player

INSPECT_VERSION = 2
"""The version of the log's schema, as inspect_ai's `EvalLog` has it."""
_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class LoggedSample:
    """A sample with its text, and 1.0 or 0.0 for each metric under which it is scored.

    `messages` are as the defender read and wrote them, without an attacker's thoughts.
    """

    row: Row
    messages: Sequence[Mapping[str, str]]
    scores: Mapping[str, float]

    @property
    def id(self) -> str:
        """Unique in its set: a source's own id may come twice."""
        return f"{self.row['place']}:{self.row['seed']['id']}"

    @property
    def epoch(self) -> int:
        """The draw, counted from 1."""
        return int(self.row["draw"]) + 1

    @property
    def prompt(self) -> list[Mapping[str, str]]:
        """The user's messages."""
        return [message for message in self.messages if message["role"] == "user"]


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

    @property
    def card(self) -> SetCard:
        """The set as it was measured."""
        return self.spec.sheet.sets[self.set]


def set_logs(results: Results, rows: Sequence[Row]) -> Iterator[SetLog]:
    """Yield every model's samples set by set; pooled groups are no sets."""
    keys = dict.fromkeys((str(row["model"]), str(row["set"])) for row in rows)
    for model, name in keys:
        measured = [m for m in results.of(model) if list(m.reported.members) == [name]]
        own = [row for row in rows if (row["model"], row["set"]) == (model, name)]
        own.sort(key=lambda row: (row["place"], row["draw"]))
        samples = [_logged(row, measured) for row in own]
        yield SetLog(results.spec, model, name, measured, samples)


def _logged(row: Row, measured: Sequence[Measured]) -> LoggedSample:
    state = state_of(row)
    messages = [
        {
            "role": "user" if move.player is Player.ATTACKER else "assistant",
            "content": move.sent or "",
        }
        for move in state.moves
    ]
    outcomes = {m.reported.metric: outcome(state, m.reported.question) for m in measured}
    scores = {k: float(o.happened) for k, o in outcomes.items() if o.happened is not None}
    return LoggedSample(row, messages, scores)


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


def _inspect_log(log: SetLog, when: str, name: str) -> dict[str, Any]:
    spec, card = log.spec, log.card
    sources = spec.sheet.tasks[card.task].sources
    sampling = {
        "temperature": spec.sampling["temperature"],
        "max_tokens": spec.sampling["max_completion_length"],
    }
    return {
        "version": INSPECT_VERSION,
        "status": "success",
        "eval": {
            "eval_id": name,
            "run_id": name,
            "created": when,
            "task": f"sparring/{log.set}",
            "task_id": name,
            "task_version": 0,
            "dataset": {
                "name": card.task,
                "location": ", ".join(source.path for source in sources),
                "samples": card.n,
                "sample_ids": list(dict.fromkeys(sample.id for sample in log.samples)),
                "shuffled": False,
            },
            "model": log.model,
            "model_generate_config": sampling,
            "config": {"epochs": card.draws},
            "packages": {"sparring": environment()["versions"]["sparring"]},
            "metadata": {
                "judge": spec.judge,
                "dataset_sha256": [source.sha256 for source in sources],
                "rate": log.measured[0].reported.name if log.measured else None,
            },
        },
        "plan": {
            "name": "plan",
            "steps": [{"solver": "generate", "params": {}}],
            "config": sampling,
        },
        "results": {
            "total_samples": len(log.samples),
            "completed_samples": len(log.samples),
            "scores": [_inspect_score(measured) for measured in log.measured],
        },
        "stats": {"started_at": when, "completed_at": when, "model_usage": {}},
        "samples": [_inspect_sample(sample, log.model) for sample in log.samples],
    }


def _inspect_score(measured: Measured) -> dict[str, Any]:
    value = measured.rate.value
    mean = {} if value is None else {"mean": {"name": "mean", "value": value, "params": {}}}
    return {
        "name": measured.reported.metric,
        "scorer": measured.reported.metric,
        "scored_samples": measured.rate.n_scored,
        "unscored_samples": measured.rate.n_total - measured.rate.n_scored,
        "params": {},
        "metrics": mean,
        "metadata": {"ci95": measured.rate.ci95, "method": measured.rate.method},
    }


def _inspect_sample(sample: LoggedSample, model: str) -> dict[str, Any]:
    """An unscored sample has no score: Inspect too distinguishes that from a score of 0."""
    sources = {"user": "input", "assistant": "generate"}
    messages = [{**message, "source": sources[message["role"]]} for message in sample.messages]
    prompt = [message for message in messages if message["role"] == "user"]
    stop = "stop" if sample.row["finished"] else "max_tokens"
    replies = [message for message in messages[-1:] if message["role"] == "assistant"]
    return {
        "id": sample.id,
        "epoch": sample.epoch,
        "input": prompt[0]["content"] if len(prompt) == 1 else prompt,
        "target": "",
        "messages": messages,
        "output": {
            "model": model,
            "choices": [{"message": reply, "stop_reason": stop} for reply in replies],
        },
        "scores": {
            metric: {
                "value": value,
                "explanation": None,
                "metadata": {"verdict": sample.row["verdict"]},
            }
            for metric, value in sample.scores.items()
        },
        "metadata": {"set": sample.row["set"], "seed": sample.row["seed"]},
        "store": {},
        "events": [],
        "model_usage": {},
    }


def write_lm_eval(results: Results, rows: Sequence[Row]) -> list[Path]:
    """Write `lm_eval/MODEL/samples_TASK_TIME.jsonl` and `results_TIME.json`."""
    when = results.folder.finished_at[:19].replace(":", "-")
    by_model: dict[str, list[SetLog]] = {}
    for log in set_logs(results, rows):
        by_model.setdefault(log.model, []).append(log)
    written = []
    for model, logs in by_model.items():
        where = results.folder.folder / "lm_eval" / _folder_name(model)
        where.mkdir(parents=True, exist_ok=True)
        for log in logs:
            path = where / f"samples_{log.name}_{when}.jsonl"
            write_atomic(path, b"".join(dumps(_lm_sample(s, log.spec)) for s in log.samples))
            written.append(path)
        written.append(where / f"results_{when}.json")
        _write_json(written[-1], _lm_results(model, logs, results.spec))
    return written


def _folder_name(model: str) -> str:
    """As the harness spells it, with a digest: two models may be spelt alike."""
    name = "".join(c if c.isalnum() or c in "._-" else "_" for c in model).strip("._")[:80]
    return f"{name}-{hashlib.sha256(model.encode()).hexdigest()[:6]}"


def _lm_sample(sample: LoggedSample, spec: EvalSpec) -> dict[str, Any]:
    doc = {**sample.row["seed"], "epoch": sample.epoch}
    last = sample.messages[-1]
    reply = last["content"] if last["role"] == "assistant" else ""
    settings = {
        "temperature": spec.sampling["temperature"],
        "max_gen_toks": spec.sampling["max_completion_length"],
    }
    return {
        "doc_id": sample.row["place"],
        "doc": doc,
        "target": "",
        "arguments": {"gen_args_0": {"arg_0": json.dumps(sample.prompt), "arg_1": settings}},
        "resps": [[reply]],
        "filtered_resps": [reply],
        "filter": "none",
        "metrics": list(sample.scores),
        "doc_hash": _digest(doc),
        "prompt_hash": _digest(sample.prompt),
        "target_hash": _digest(""),
        **sample.scores,
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(dumps(value)).hexdigest()


def _lm_results(model: str, logs: Sequence[SetLog], spec: EvalSpec) -> dict[str, Any]:
    def by_set(of: Callable[[SetLog], Any]) -> dict[str, Any]:
        return {log.name: of(log) for log in logs}

    return {
        "results": by_set(_lm_rates),
        "group_subtasks": by_set(lambda _: []),
        "configs": by_set(_lm_config),
        "versions": by_set(lambda _: 0),
        "n-shot": by_set(lambda _: 0),
        "higher_is_better": by_set(
            lambda log: {m.reported.metric: m.reported.metric == "correct" for m in log.measured}
        ),
        "n-samples": by_set(lambda log: {"original": log.card.n, "effective": len(log.samples)}),
        "config": {"model": "sparring", "model_args": {"pretrained": model}, "limit": None},
        "model_name": model,
        "judge": spec.judge,
    }


def _lm_rates(log: SetLog) -> dict[str, Any]:
    """The harness has a standard error where we have an interval: its width over 2 · 1.96."""
    rates: dict[str, Any] = {"alias": log.name}
    for measured in log.measured:
        interval, metric = measured.rate.ci95, measured.reported.metric
        error = (interval[1] - interval[0]) / (2 * _Z) if interval else "N/A"
        rates |= {f"{metric},none": measured.rate.value, f"{metric}_stderr,none": error}
    return rates


def _lm_config(log: SetLog) -> dict[str, Any]:
    return {
        "task": log.name,
        "dataset_path": log.card.task,
        "output_type": "generate_until",
        "num_fewshot": 0,
        "repeats": log.card.draws,
        "metric_list": [
            {"metric": measured.reported.metric, "aggregation": "mean"} for measured in log.measured
        ],
    }


WRITERS = {"inspect": write_inspect, "lm-eval": write_lm_eval}
"""The writers of other harnesses' logs, by the name in `--log-format`."""
