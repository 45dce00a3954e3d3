"""What the studies that take many hours share: commands, and figures that are stored bit by bit."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import sparring
from sparring.door import sha256
from sparring.store.files import dumps

SPARRING = (sys.executable, "-c", "from sparring.cli import main; main()")


def code_digest() -> str:
    """Return sha256 over the package's files and their names, in 12 hex digits."""
    package, total = Path(sparring.__file__).parent, hashlib.sha256()
    for path in sorted(package.rglob("*")):
        if path.suffix in {".py", ".yaml", ".json", ".safetensors"}:
            total.update(f"{path.relative_to(package)} {sha256(path)}\n".encode())
    return total.hexdigest()[:12]


def begun(path: Path, rests_on: Mapping[str, str]) -> dict[str, Any]:
    """Return what is stored of a cell, or what its figures will rest on.

    Stored figures that rest on other settings or another model are refused. The code's digest is
    stored beside them, and other code is not refused.
    """
    if not path.is_file():
        return {**rests_on, "code": code_digest()}
    record: dict[str, Any] = json.loads(path.read_bytes())
    if other := [key for key, value in rests_on.items() if record[key] != value]:
        raise SystemExit(f"{path} rests on other {' and '.join(other)}: move it away")
    return record


def store(path: Path, record: Mapping[str, Any]) -> None:
    """Write the figures of a cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(dumps(record))


def chosen(planned: Iterable[object], words: str | None) -> list[str]:
    """Return those of the planned names that `words` names, or all of them."""
    names = [str(name) for name in planned]
    return [name for name in names if not words or name in words.split(",")]
