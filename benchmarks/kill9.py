"""Kill a short run again and again, resume it every time, and compare it with one left alone.

    python benchmarks/kill9.py --kills 20
    python benchmarks/kill9.py --kills 20 --recipe ssp      # with all that a run can remember

Each kill is a SIGKILL to a real process: half of them at a random time, half at a random file
operation (inside a checkpoint, at a rename, before `latest`, in pruning, …). Whenever the run gets
to its end it is compared, and another one begins. Exit code 1 if anything differs.
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
    """The run that nobody kills: seconds to its first step and to its end, file operations."""

    folder: Path
    begins: float
    ends: float
    operations: int


@dataclass
class Tally:
    """What went wrong; a line for each."""

    kills: int = 0
    compared: int = 0
    lost_rounds: int = 0
    wrong: list[str] = field(default_factory=list)


@contextlib.contextmanager
def started(code: str, arguments: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """A real `sparring`; what it prints comes through a pipe."""
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
    """Play the run whole."""
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
    """Start or resume, kill; the exit code (0: it got to its end first) and what was tried."""
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
    """Count the rounds that a resume would play again."""
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
    """Bits, rounds and leftovers of a run that got to its end."""
    tally.compared += 1
    told, wanted = short_run.outcome(folder), short_run.outcome(alone.folder)
    differing = [name for name in {**wanted, **told} if told.get(name) != wanted.get(name)]
    tally.wrong += [f"{folder}: {name} differs" for name in differing]
    tally.wrong += [f"{path}: left behind" for path in short_run.leftovers(folder)]


def finish(folder: Path, settings: Sequence[str]) -> None:
    """Resume and let it be."""
    with started(PLAIN, short_run.arguments(folder, *settings)) as process:
        out, _ = process.communicate()
    _checked(process.returncode, out)


def main() -> None:
    """Kill, resume, compare, count."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--recipe", choices=short_run.RECALLING, help="with its memory on")
    parser.add_argument("settings", nargs="*", help="such as learner.beta=0.05")
    asked = parser.parse_args()
    settings = [*SETTINGS, *short_run.RECALLING.get(asked.recipe, ()), *asked.settings]
    rng, tally = random.Random(asked.seed), Tally()
    alone = leave_alone(settings)
    print(f"left alone: {alone.ends:.1f} s, {alone.operations} file operations", flush=True)
    while tally.kills < asked.kills:
        folder = short_run.scratch() / f"killed-{tally.compared + 1}"
        code, tried = kill_once(folder, settings, alone, rng)
        if code:
            tally.kills += 1
            look(folder, tally)
            print(f"kill {tally.kills}/{asked.kills}  {folder.name}  {tried}", flush=True)
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
