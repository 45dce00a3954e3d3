"""Kill a short run repeatedly, resume it each time, and compare it with an uninterrupted run.

    python benchmarks/kill9.py --kills 20
    python benchmarks/kill9.py --kills 20 --recipe ssp      # with replay, league and reflection on

Each kill is a SIGKILL to a real process, half of them at a random time and half at a random file
operation (inside a checkpoint, at a rename, before `latest`, while pruning, …). Whenever the run
reaches its end it is compared, and another one begins. The exit code is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from tests import short_run  # noqa: E402

from sparring.store.checkpoints import Checkpoints  # noqa: E402
from sparring.types import CorruptError  # noqa: E402

SETTINGS = ("rounds=8", "schedule.every=2", "saving.keep_every=4")
PLAIN = "from sparring.cli import main; main()"
KILLED_AT = (
    "import sys; from pathlib import Path; from tests.short_run import At; "
    "At(Path(sys.argv.pop(1)), '.*', int(sys.argv.pop(1)))(); " + PLAIN
)
LOGGED = (
    "import sys; from pathlib import Path; from tests.short_run import Log; "
    "Log(Path(sys.argv.pop(1)), Path(sys.argv.pop(1)))(); " + PLAIN
)


@dataclass
class Alone:
    """The uninterrupted run: seconds to its first step and to its end, and its file operations."""

    folder: Path
    begins: float
    ends: float
    operations: int


@dataclass
class Tally:
    """Counts over all kills, and a line in `wrong` for each difference."""

    kills: int = 0
    compared: int = 0
    lost_rounds: int = 0
    wrong: list[str] = field(default_factory=list)


@contextlib.contextmanager
def started(code: str, arguments: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """A `sparring` process, started by `code`; its output comes through a pipe."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    paths = [str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    command = [sys.executable, "-c", code, *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        yield process


def leave_alone(settings: Sequence[str]) -> Alone:
    """Play the run without interruption."""
    folder, log = short_run.scratch() / "alone", short_run.scratch() / "operations"
    arguments = short_run.arguments(folder, *settings)
    start, begins = time.monotonic(), 0.0
    with started(LOGGED, [str(folder), str(log), *arguments]) as process:
        for line in process.stdout or ():
            begins = begins or (time.monotonic() - start if "warm-up" in line else 0.0)
        if process.wait():
            raise SystemExit(f"the run that nobody killed ended with {process.returncode}")
    operations = len(log.read_text().splitlines())
    return Alone(folder, begins, time.monotonic() - start, operations)


def kill_once(
    folder: Path, settings: Sequence[str], alone: Alone, rng: random.Random
) -> tuple[int, str]:
    """Start or resume the run and kill it.

    Returns the exit code (0 if the run reached its end first) and when the kill was to happen.
    """
    arguments = short_run.arguments(folder, *settings)
    if rng.random() < 0.5:
        nth = rng.randint(1, alone.operations)
        with started(KILLED_AT, [str(folder), str(nth), *arguments]) as process:
            out, _ = process.communicate()
        return _checked(process.returncode, out), f"at file operation {nth}"
    seconds = rng.uniform(alone.begins, alone.ends)
    with started(PLAIN, arguments) as process:
        try:
            out, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
    return _checked(process.returncode, out), f"after {seconds:.1f} s"


def _checked(code: int, out: str) -> int:
    if code not in (0, -9):
        raise SystemExit(
            f"a resumed run ended with {code}, which is a run that cannot be loaded:\n{out}"
        )
    return code


def look(folder: Path, tally: Tally) -> None:
    """Count the recorded rounds after the newest sound checkpoint, which a resume plays again."""
    path = folder / "rounds.jsonl"
    played = path.read_bytes().count(b"\n") if path.is_file() else 0
    if played:
        try:
            newest = Checkpoints(folder / "checkpoints").newest(tally.wrong.append) or 0
        except CorruptError as error:
            tally.wrong.append(str(error))
        else:
            tally.lost_rounds = max(tally.lost_rounds, played - newest)


def compare(folder: Path, alone: Alone, tally: Tally) -> None:
    """Note every difference of a finished run from the uninterrupted one, and leftover files."""
    tally.compared += 1
    result, expected = short_run.outcome(folder), short_run.outcome(alone.folder)
    differing = [name for name in {**expected, **result} if result.get(name) != expected.get(name)]
    tally.wrong += [f"{folder}: {name} differs" for name in differing]
    tally.wrong += [f"{path}: left behind" for path in short_run.leftovers(folder)]


def finish(folder: Path, settings: Sequence[str]) -> None:
    """Resume the run and let it finish."""
    with started(PLAIN, short_run.arguments(folder, *settings)) as process:
        out, _ = process.communicate()
    _checked(process.returncode, out)


def main() -> None:
    """Kill, resume and compare until there were `--kills` kills; print the differences."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--recipe", choices=short_run.RECALLING, help="with its memory on")
    parser.add_argument("settings", nargs="*", help="such as learner.beta=0.05")
    arguments = parser.parse_args()
    settings = [*SETTINGS, *short_run.RECALLING.get(arguments.recipe, ()), *arguments.settings]
    rng, tally = random.Random(arguments.seed), Tally()
    alone = leave_alone(settings)
    print(f"left alone: {alone.ends:.1f} s, {alone.operations} file operations", flush=True)
    while tally.kills < arguments.kills:
        folder = short_run.scratch() / f"killed-{tally.compared + 1}"
        code, tried = kill_once(folder, settings, alone, rng)
        if code:
            tally.kills += 1
            look(folder, tally)
            print(f"kill {tally.kills}/{arguments.kills}  {folder.name}  {tried}", flush=True)
        else:
            compare(folder, alone, tally)
            print(f"{folder.name} got to its end", flush=True)
    finish(folder, settings)
    compare(folder, alone, tally)
    print(
        f"{tally.kills} kills, {tally.compared} runs compared with the whole one: "
        f"{len(tally.wrong)} differences; at most {tally.lost_rounds} recorded rounds played again"
    )
    print("\n".join(tally.wrong), end="")
    sys.exit(bool(tally.wrong))


if __name__ == "__main__":
    main()
