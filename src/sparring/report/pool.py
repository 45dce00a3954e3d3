"""What lies in a run's experience pool: the hardest, the most visited, the retired."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sparring.records import RunDir
from sparring.types import CorruptError, UsageError

SHOWN = 10
"""Entries of each list."""


def listed(run: RunDir, content: bool) -> dict[str, Any]:
    """The pool of the last checkpoint; attacks as digests unless their `content` is asked for."""
    number = run.checkpoints.at(None)
    path = run.checkpoints.path(number) / "memory.json"
    try:
        told = json.loads(path.read_bytes())["memory"]
        entries = told.get("entries")
    except (OSError, ValueError, LookupError, AttributeError) as error:
        raise CorruptError(f"{path}: is not what was written: {error!r:.200}") from error
    if entries is None:
        raise UsageError(
            f"{run.folder}: played without an experience pool (memory.experience.sampler)"
        )
    awake = [entry for entry in entries if not entry["asleep"]]
    asleep = [entry for entry in entries if entry["asleep"]]
    return {
        "rounds": number,
        "size": len(awake),
        "asleep": len(asleep),
        "visits": told["visits"],
        "hardest": _rows(sorted(awake, key=lambda e: e["mean"]), content),
        "most visited": _rows(sorted(awake, key=lambda e: -e["visits"]), content),
        "retired": _rows(asleep, content),
    }


def _rows(entries: Sequence[Mapping[str, Any]], content: bool) -> list[dict[str, Any]]:
    return [
        {
            "seed": entry["seed"]["id"],
            "harmful": entry["seed"]["harmful"],
            "mean": entry["mean"],
            "visits": entry["visits"],
            "attack": text if content else _redacted(text),
        }
        for entry in entries[:SHOWN]
        for text in [entry["seen"][-1]["content"]]
    ]


def _redacted(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"[{digest}, {len(text.split())} words]"
