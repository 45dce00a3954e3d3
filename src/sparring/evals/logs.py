"""Samples and results as Inspect AI and lm-evaluation-harness write them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

from sparring.evals.folder import EvalDir, Row, state_of
from sparring.evals.results import Measured
from sparring.exam import outcome
from sparring.stats.rates import Outcome
from sparring.store.files import dumps, write_atomic
from sparring.store.folder import environment
from sparring.types import Player, State


@dataclass(frozen=True)
class Told:
    """A sample with its text, and the outcome under each rate of its set."""

    row: Row
    state: State
    outcomes: Mapping[str, Outcome]

    @property
    def id(self) -> str:
        """Unique in its set: a source's own id may come twice."""
        return f"{self.row['place']}:{self.row['seed']['id']}"

    @property
    def epoch(self) -> int:
        return int(self.row["draw"]) + 1

    @property
    def messages(self) -> list[dict[str, str]]:
        """As the defender read and wrote them, without an attacker's thoughts."""
        return [
            {
                "role": "user" if move.player is Player.ATTACKER else "assistant",
                "content": move.sent or "",
            }
            for move in self.state.moves
        ]

    @property
    def reply(self) -> str:
        told = self.messages[-1]
        return told["content"] if told["role"] == "assistant" else ""


@dataclass(frozen=True)
class Sheetful:
    """The samples of one model on one set, and what was measured of it."""

    model: str
    set: str
    measured: Sequence[Measured]
    samples: Sequence[Told]

    @property
    def name(self) -> str:
        """Of its files; a set's name may hold anything."""
        told = f"{self.set.replace('/', '_')}"
        return "".join(c if c.isalnum() or c in "._+-" else "-" for c in told)[:100]


def sheetfuls(measured: Sequence[Measured], rows: Sequence[Row]) -> Iterator[Sheetful]:
    """Every model's samples set by set; pooled groups are no sets."""
    keys = dict.fromkeys((str(row["model"]), str(row["set"])) for row in rows)
    for model, name in keys:
        mine = [m for m in measured if m.model == model and list(m.told.members) == [name]]
        told = [row for row in rows if (row["model"], row["set"]) == (model, name)]
        told.sort(key=lambda row: (row["place"], row["draw"]))
        yield Sheetful(model, name, mine, [_told(row, mine) for row in told])


def _told(row: Row, measured: Sequence[Measured]) -> Told:
    state = state_of(row)
    outcomes = {one.told.metric: outcome(state, one.told.question) for one in measured}
    return Told(row, state, outcomes)


def numbers(told: Mapping[str, Outcome]) -> dict[str, Any]:
    """1.0 where it happened, 0.0 where it did not; what is unscored is left out."""
    return {k: float(v.happened) for k, v in told.items() if v.happened is not None}


VERSION = 2
"""Of the log's schema, as inspect_ai's `EvalLog` has it."""


def write_inspect(
    folder: EvalDir, asked: Mapping[str, Any], measured: Sequence[Measured], rows: Sequence[Row]
) -> list[Path]:
    """Logs in `inspect/`, named as Inspect names them; untrusted text stands in them."""
    where = folder.folder / "inspect"
    where.mkdir(exist_ok=True)
    when = folder.finished_at
    written = []
    for told in sheetfuls(measured, rows):
        name = hashlib.sha256(f"{told.model}\n{told.set}".encode()).hexdigest()[:22]
        path = where / f"{when[:19].replace(':', '-')}_{told.name.replace('_', '-')}_{name}.json"
        data = json.dumps(_log(told, asked, when, name), indent=1, allow_nan=False)
        write_atomic(path, data.encode() + b"\n")
        written.append(path)
    return written


def _log(told: Sheetful, asked: Mapping[str, Any], when: str, name: str) -> dict[str, Any]:
    metrics = [one.told.metric for one in told.measured]
    return {
        "version": VERSION,
        "status": "success",
        "eval": _spec(told, asked, when, name),
        "plan": {
            "name": "plan",
            "steps": [{"solver": "generate", "params": {}}],
            "config": _sampling(asked),
        },
        "results": {
            "total_samples": len(told.samples),
            "completed_samples": len(told.samples),
            "scores": [_score(one) for one in told.measured],
        },
        "stats": {"started_at": when, "completed_at": when, "model_usage": {}},
        "samples": [_inspect_sample(one, told.model, metrics) for one in told.samples],
    }


def _sampling(asked: Mapping[str, Any]) -> dict[str, Any]:
    told = asked["sampling"]
    return {"temperature": told["temperature"], "max_tokens": told["max_completion_length"]}


def _spec(told: Sheetful, asked: Mapping[str, Any], when: str, name: str) -> dict[str, Any]:
    task = told.measured[0].told if told.measured else None
    card = asked["sheet"]["sets"][told.set]
    sources = asked["sheet"]["tasks"][card["task"]]["sources"]
    return {
        "eval_id": name,
        "run_id": name,
        "created": when,
        "task": f"sparring/{told.set}",
        "task_id": name,
        "task_version": 0,
        "dataset": {
            "name": card["task"],
            "location": ", ".join(source["path"] for source in sources),
            "samples": card["n"],
            "sample_ids": list(dict.fromkeys(one.id for one in told.samples)),
            "shuffled": False,
        },
        "model": told.model,
        "model_generate_config": _sampling(asked),
        "config": {"epochs": card["draws"]},
        "packages": {"sparring": environment()["versions"]["sparring"]},
        "metadata": {
            "judge": asked["judge"],
            "dataset_sha256": [source["sha256"] for source in sources],
            "rate": task.name if task else None,
        },
    }


def _score(one: Measured) -> dict[str, Any]:
    value = one.rate.value
    told = {} if value is None else {"mean": {"name": "mean", "value": value, "params": {}}}
    return {
        "name": one.told.metric,
        "scorer": one.told.metric,
        "scored_samples": one.rate.n_scored,
        "unscored_samples": one.rate.n_total - one.rate.n_scored,
        "params": {},
        "metrics": told,
        "metadata": {"ci95": one.rate.ci95, "method": one.rate.method},
    }


def _inspect_sample(one: Told, model: str, metrics: Sequence[str]) -> dict[str, Any]:
    """An unscored sample has no score: Inspect too tells that from a score of 0."""
    messages = [_message(told) for told in one.messages]
    asked = [told for told in messages if told["role"] == "user"]
    stop = "stop" if one.row["finished"] else "max_tokens"
    choices = [{"message": _message(told), "stop_reason": stop} for told in one.messages[-1:]]
    replied = bool(messages) and messages[-1]["role"] == "assistant"
    return {
        "id": one.id,
        "epoch": one.epoch,
        "input": asked[0]["content"] if len(asked) == 1 else asked,
        "target": "",
        "messages": messages,
        "output": {"model": model, "choices": choices if replied else []},
        "scores": {
            metric: {
                "value": float(bool(one.outcomes[metric].happened)),
                "explanation": None,
                "metadata": {"verdict": one.row["verdict"]},
            }
            for metric in metrics
            if one.outcomes[metric].happened is not None
        },
        "metadata": {"set": one.row["set"], "seed": one.row["seed"]},
        "store": {},
        "events": [],
        "model_usage": {},
    }


def _message(told: Mapping[str, str]) -> dict[str, str]:
    source = {"user": "input", "assistant": "generate"}[told["role"]]
    return {"role": told["role"], "content": told["content"], "source": source}


_Z = NormalDist().inv_cdf(0.975)


def write_lm_eval(
    folder: EvalDir, asked: Mapping[str, Any], measured: Sequence[Measured], rows: Sequence[Row]
) -> list[Path]:
    """`lm_eval/MODEL/samples_TASK_TIME.jsonl` and `results_TIME.json`; untrusted text inside."""
    when = folder.finished_at[:19].replace(":", "-")
    by_model: dict[str, list[Sheetful]] = {}
    for told in sheetfuls(measured, rows):
        by_model.setdefault(told.model, []).append(told)
    written = []
    for model, sets in by_model.items():
        where = folder.folder / "lm_eval" / _folder_name(model)
        where.mkdir(parents=True, exist_ok=True)
        for told in sets:
            path = where / f"samples_{told.name}_{when}.jsonl"
            lines = [dumps(_lm_eval_sample(one, asked)) for one in told.samples]
            write_atomic(path, b"".join(lines))
            written.append(path)
        path = where / f"results_{when}.json"
        data = json.dumps(_results(model, sets, asked), indent=1, allow_nan=False)
        write_atomic(path, data.encode() + b"\n")
        written.append(path)
    return written


def _folder_name(model: str) -> str:
    """As the harness spells it, with a digest: two models may be spelt alike."""
    told = "".join(c if c.isalnum() or c in "._-" else "_" for c in model).strip("._")[:80]
    return f"{told}-{hashlib.sha256(model.encode()).hexdigest()[:6]}"


def _lm_eval_sample(one: Told, asked: Mapping[str, Any]) -> dict[str, Any]:
    told = asked["sampling"]
    doc = {**one.row["seed"], "epoch": one.epoch}
    prompt = [message for message in one.messages if message["role"] == "user"]
    values = numbers(one.outcomes)
    return {
        "doc_id": one.row["place"],
        "doc": doc,
        "target": "",
        "arguments": {
            "gen_args_0": {
                "arg_0": json.dumps(prompt),
                "arg_1": {
                    "temperature": told["temperature"],
                    "max_gen_toks": told["max_completion_length"],
                },
            }
        },
        "resps": [[one.reply]],
        "filtered_resps": [one.reply],
        "filter": "none",
        "metrics": list(values),
        "doc_hash": _digest(doc),
        "prompt_hash": _digest(prompt),
        "target_hash": _digest(""),
        **values,
    }


def _digest(told: Any) -> str:
    return hashlib.sha256(dumps(told)).hexdigest()


def _results(model: str, sets: Sequence[Sheetful], asked: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "results": {told.name: _rates(told) for told in sets},
        "group_subtasks": {told.name: [] for told in sets},
        "configs": {told.name: _config(told, asked) for told in sets},
        "versions": {told.name: 0 for told in sets},
        "n-shot": {told.name: 0 for told in sets},
        "higher_is_better": {
            told.name: {one.told.metric: one.told.metric == "correct" for one in told.measured}
            for told in sets
        },
        "n-samples": {
            told.name: {
                "original": asked["sheet"]["sets"][told.set]["n"],
                "effective": len(told.samples),
            }
            for told in sets
        },
        "config": {"model": "sparring", "model_args": {"pretrained": model}, "limit": None},
        "model_name": model,
        "judge": asked["judge"],
    }


def _rates(told: Sheetful) -> dict[str, Any]:
    """The harness has a standard error where we have an interval: its width over 2 · 1.96."""
    rates: dict[str, Any] = {"alias": told.name}
    for one in told.measured:
        low, high = one.rate.ci95 or (None, None)
        error = None if low is None or high is None else (high - low) / (2 * _Z)
        rates[f"{one.told.metric},none"] = one.rate.value
        rates[f"{one.told.metric}_stderr,none"] = "N/A" if error is None else error
    return rates


def _config(told: Sheetful, asked: Mapping[str, Any]) -> dict[str, Any]:
    metrics = [{"metric": one.told.metric, "aggregation": "mean"} for one in told.measured]
    card = asked["sheet"]["sets"][told.set]
    return {
        "task": told.name,
        "dataset_path": card["task"],
        "output_type": "generate_until",
        "num_fewshot": 0,
        "repeats": card["draws"],
        "metric_list": metrics,
    }
