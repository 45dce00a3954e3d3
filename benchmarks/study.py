"""What the studies of many hours share: commands, and figures that are stored part by part."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryFile
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


def call(
    *words: object, log: Path, environment: Mapping[str, str] | None = None
) -> tuple[str, dict[str, float]]:
    """Run a command; return what it prints, its CPU seconds and its peak memory in GiB.

    What it says besides goes to `log`. RuntimeError where it fails.
    """
    command, own = [str(word) for word in words], os.environ | {"OMP_NUM_THREADS": "1"}
    log.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryFile("w+") as printed, log.open("ab") as notes:
        variables = own | {**(environment or {})}
        process = subprocess.Popen(command, stdout=printed, stderr=notes, env=variables)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        output = printed.read()
    if process.returncode:
        shown = " ".join(command[-8:])
        raise RuntimeError(f"{shown} ended with {process.returncode}; see {log}\n{output[-2000:]}")
    cpu = round(used.ru_utime + used.ru_stime, 1)
    return output, {"cpu_seconds": cpu, "peak_gib": round(used.ru_maxrss / 1024**2, 2)}


def play(cells: Iterable[tuple[str, Callable[[], None]]], jobs: int) -> None:
    """Play cells by name, `jobs` at once; one that fails stops no other, and the exit is 1."""

    def ends_well(cell: tuple[str, Callable[[], None]]) -> bool:
        name, whole = cell
        try:
            whole()
        except (RuntimeError, OSError) as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            return False
        return True

    with ThreadPoolExecutor(jobs) as pool:
        if not all([*pool.map(ends_well, cells)]):
            raise SystemExit(1)


def begun(path: Path, rests_on: Mapping[str, str]) -> dict[str, Any]:
    """Return what is stored of a cell, or what its figures will rest on.

    RuntimeError where stored figures rest on other settings or another model. The code's digest is
    stored beside them, and other code is not refused.
    """
    if not path.is_file():
        return {**rests_on, "code": code_digest()}
    record: dict[str, Any] = json.loads(path.read_bytes())
    if other := [key for key, value in rests_on.items() if record[key] != value]:
        raise RuntimeError(f"{path} rests on other {' and '.join(other)}: move it away")
    return record


def store(path: Path, record: Mapping[str, Any]) -> None:
    """Write the figures of a cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(dumps(record))


def chosen(planned: Iterable[object], words: str | None) -> list[str]:
    """Return those of the planned names that `words` names, or all of them."""
    names = [str(name) for name in planned]
    return [name for name in names if not words or name in words.split(",")]
