"""A short run of the sandbox in a process of its own, for whoever kills, starves or repeats it.

Every process is forked from a server that has imported torch, so that a run takes a second or two.
What happens to it is said by the file operation at which it happens, so no test has to sleep.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import functools
import hashlib
import importlib
import itertools
import json
import multiprocessing
import multiprocessing.forkserver
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROUNDS = 4


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def settings(text: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in text.split())


SETTINGS: Mapping[str, str] = settings(f"""
    seed=2 rounds={ROUNDS} schedule.every=1 learner.seeds_per_round=5 learner.num_generations=3
    sampling.max_completion_length=40 game.diversity=0 memory.league.opponents=latest
    warm_up.steps=3 warm_up.batch_size=4 warm_up.pool_size=16 warm_up.learning_rate=1e-5
    warm_up.pool=narrow exam.n=2 exam.every=0 exam.crossplay=2
    saving.checkpoint_every=1 saving.keep_every=2 saving.transcripts_every=2
""")
"""Four rounds, each player learns in two; the checkpoint after the first is pruned."""
REFERENCE = words("""
    exam.crossplay=0 learner.beta=0.05
    schedule.kind=by_metric schedule.dwell=[1,2] schedule.window=1
""")
"""KL to the weights RL began with, and turns that depend on the rounds before."""
ADAPTERS = words("""
    exam.crossplay=0 weights=adapters attacker.model_name_or_path=sandbox
    warm_up.steps=40 warm_up.batch_size=16 warm_up.pool_size=512 warm_up.learning_rate=1e-2
""")
"""A LoRA each on one base; here the attacker's has to learn its format first."""
_REPLAYING = """
    exam.crossplay=0 memory.experience.replay_share=0.5
    memory.league.share=0.6 memory.league.trials=2
"""
RECALLING: Mapping[str, tuple[str, ...]] = {
    "magic": words(f"""
        seed=61 schedule.kind=by_metric schedule.dwell=[1,2] schedule.window=1 {_REPLAYING}
        memory.experience.sampler=ucb memory.league.opponents=uniform memory.league.keep_every=1
    """),
    "ssp": words(f"""
        seed=1 recipe=ssp memory.experience.reflect=true memory.league.opponents=nash
        memory.league.keep_every=2 {_REPLAYING}
    """),
}
"""Settings by recipe that turn on all memory. With seed 61 MAGIC meets past policies 1 and 2."""
_ROOT = Path(__file__).resolve().parents[1]
_WARM = settings("""
    rounds=1 exam.crossplay=0 warm_up.steps=80 warm_up.batch_size=16 warm_up.pool_size=512
    warm_up.learning_rate=2e-3
""")
SHARED = ("recipe=ssp", "warm_up.steps=120")
CLOCKS = ("seconds", "cpu_seconds", "judge")
ENVIRONMENT = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "2",
    "PYTHONPATH": os.pathsep.join(filter(None, (f"{_ROOT}", os.environ.get("PYTHONPATH")))),
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class At:
    """Something that happens at the `nth` file operation below `folder` that matches `pattern`.

    An operation reads `open rounds.jsonl`, `rename checkpoints/latest`, `remove …`, `mkdir …`,
    `rmtree …`, `rmdir …` or `fsync`; it is stopped before it is done. `what` is the number of a
    signal, which the process sends itself, or `full`: the disk is.
    """

    folder: Path
    pattern: str
    nth: int = 1
    what: int | str = signal.SIGKILL

    def __call__(self) -> None:
        count = 0

        def operation(text: str) -> None:
            nonlocal count
            if re.fullmatch(self.pattern, text):
                count += 1
                if count == self.nth:
                    self._happen()

        on_operations(self.folder, operation)

    def _happen(self) -> None:
        if self.what == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.kill(os.getpid(), int(self.what))


@dataclass(frozen=True)
class Call:
    """A signal that a process sends itself before the `nth` call of `module.name` (or of a method).

    A signal may find a run where it writes nothing.
    """

    module: str
    name: str
    nth: int = 1
    what: int = signal.SIGTERM

    def __call__(self) -> None:
        *outer, last = self.name.split(".")
        owner: Any = functools.reduce(getattr, outer, importlib.import_module(self.module))
        function, calls = getattr(owner, last), itertools.count(1)

        def called(*args: Any, **more: Any) -> Any:
            if next(calls) == self.nth:
                os.kill(os.getpid(), self.what)
            return function(*args, **more)

        setattr(owner, last, called)


@dataclass(frozen=True)
class Each:
    """Several things that happen to one run."""

    hooks: tuple[Callable[[], None], ...]

    def __call__(self) -> None:
        for hook in self.hooks:
            hook()


@dataclass(frozen=True)
class Log:
    """Writes every file operation below `folder` to the file `into`, one a line."""

    folder: Path
    into: Path

    def __call__(self) -> None:
        handle = os.open(self.into, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        on_operations(self.folder, lambda text: os.write(handle, f"{text}\n".encode()))


@dataclass(frozen=True)
class LargestFile:
    """No file may grow beyond `bytes`, as on a full disk."""

    bytes: int

    def __call__(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.bytes, self.bytes))


def on_operations(folder: Path, note: Callable[[str], Any]) -> None:
    """From now on call `note` before everything that this process changes below `folder`."""
    root = os.path.abspath(folder)
    names = {"os.rename": "rename", "os.remove": "remove", "os.mkdir": "mkdir"}
    names |= {"shutil.rmtree": "rmtree", "os.rmdir": "rmdir", "open": "open"}

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event not in names or (event == "open" and not _writes(args)):
            return
        path = args[1] if event == "os.rename" else args[0]
        if not isinstance(path, str | bytes | os.PathLike):
            return
        where = os.path.abspath(os.fsdecode(path))
        if where == root or where.startswith(f"{root}/"):
            below = os.path.relpath(where, root)
            note(f"{names[event]} {re.sub(r'[.]tmp-[0-9]+', '.tmp', below)}")

    sys.addaudithook(hook)
    fsync = os.fsync

    def noted(handle: int) -> None:
        note("fsync")
        fsync(handle)

    os.fsync = noted


def _writes(args: tuple[Any, ...]) -> bool:
    flags = args[2] if isinstance(args[2], int) else 0
    return bool(flags & (os.O_WRONLY | os.O_RDWR))


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (minus the signal that killed it) and what it printed."""

    code: int
    out: str
    err: str

    def check(self) -> Ended:
        assert self.code == 0, f"exit code {self.code}\n{self.out}\n{self.err}"
        return self


class Started:
    """A running `sparring` process."""

    def __init__(self, arguments: Sequence[str], before: Callable[[], None] | None = None) -> None:
        self.printed = Path(tempfile.mkdtemp(dir=scratch()))
        self.process = _context().Process(  # type: ignore[attr-defined]
            target=_child, args=(list(arguments), before, self.printed)
        )
        self.process.start()

    def wait(self, seconds: float = 300) -> Ended:
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        out, err = (self.printed / name for name in ("out", "err"))
        code = self.process.exitcode
        return Ended(code, out.read_text("utf-8", "replace"), err.read_text("utf-8", "replace"))


def sparring(*arguments: str, before: Callable[[], None] | None = None) -> Ended:
    """`sparring …` as a user would run it, but forked; `before` is called first, in the child."""
    return Started(arguments, before).wait()


def train(folder: Path, *more: str, before: Callable[[], None] | None = None) -> Ended:
    """Play the short run in `folder`, or go on with it, until it ends or is ended."""
    return sparring(*arguments(folder, *more), before=before)


def arguments(folder: Path, *more: str) -> list[str]:
    """The words after `sparring`; `more` are settings, of which later ones win, and flags."""
    return _arguments(folder, _settings(more), more)


def _settings(more: Sequence[str]) -> Mapping[str, str]:
    """The short run's settings, with models that know the format of an attack."""
    shared = "recipe=ssp" in more
    model = warmed(*SHARED) if shared else warmed()
    seats = ("attacker", "defender") if shared else ("attacker",)
    return {**SETTINGS, **{f"{seat}.model_name_or_path": f"{model}" for seat in seats}}


def _arguments(folder: Path, settings: Mapping[str, str], more: Sequence[str]) -> list[str]:
    over = dict(word.split("=", 1) for word in more if "=" in word)
    flags = [word for word in more if "=" not in word]
    merged = {**settings, "output_dir": f"{folder}", **over}
    resume = ["--resume"] if (folder / "config.yaml").is_file() else []
    recipe = merged.pop("recipe", "magic")
    return ["train", recipe, *resume, *flags, *(f"{key}={value}" for key, value in merged.items())]


@functools.cache
def warmed(*more: str) -> Path:
    """An attacker that knows its format, so that rounds have rewards to learn from.

    With `SHARED`, a model that can do both.
    """
    folder = _once("warmed", more, {**SETTINGS, **_WARM})
    saved = folder / "checkpoints" / "round_000000"
    return next(saved / name for name in ("attacker", "defender") if (saved / name).is_dir())


@functools.cache
def whole(*more: str) -> Path:
    """The folder of an uninterrupted short run; read it or copy it, but do not change it."""
    return _once("whole", more, _settings(more))


def _once(kind: str, more: Sequence[str], settings: Mapping[str, str]) -> Path:
    """The folder of a run that the first process of this session that needs it plays."""
    name = f"{kind}-{hashlib.sha256(repr(more).encode()).hexdigest()[:12]}"
    folder, played = scratch() / name, scratch() / f"{name}.played"
    with (scratch() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not played.exists():
            shutil.rmtree(folder, ignore_errors=True)
            sparring(*_arguments(folder, settings, more)).check()
            played.touch()
    return folder


def copy_of_whole(into: Path) -> Path:
    """A copy of the uninterrupted run that a test may change."""
    return Path(shutil.copytree(whole(), into / "run"))


def outcome(folder: Path) -> dict[str, Any]:
    """A run's rounds without clocks, and digests of its last checkpoint, exams and transcripts."""
    files = [*max((folder / "checkpoints").glob("round_*")).rglob("*")]
    files += [*(folder / "exams").rglob("*"), *(folder / "transcripts").rglob("*")]
    digests: dict[str, Any] = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
        if path.is_file()
    }
    return digests | {"rounds": rounds(folder)}


def rounds(folder: Path) -> list[dict[str, Any]]:
    """The recorded rounds without their wall time."""
    lines = (folder / "rounds.jsonl").read_bytes().splitlines()
    records = [json.loads(line) for line in lines]
    return [{k: v for k, v in record.items() if k not in CLOCKS} for record in records]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, byte by byte."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def leftovers(folder: Path) -> list[Path]:
    """Temporary files that an interrupted writer left behind."""
    return sorted(folder.rglob("*.tmp-*"))


@functools.cache
def scratch() -> Path:
    """A folder for what the tests of one session share; pytest's processes have one together."""
    if shared := os.environ.get("SPARRING_SCRATCH"):
        return Path(shared)
    folder = tempfile.mkdtemp(prefix="sparring-")
    os.environ["SPARRING_SCRATCH"] = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@functools.cache
def _context() -> multiprocessing.context.BaseContext:
    """A server that forks; it has its own hash seed, one thread, and every library imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.preloaded"])
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ.update({name: value} if value is not None else {})
    return context


def _child(arguments: list[str], before: Callable[[], None] | None, printed: Path) -> None:
    for handle, name in ((1, "out"), (2, "err")):
        file = os.open(printed / name, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, handle)
        os.close(file)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["sparring", *arguments]
    if before:
        before()
    from sparring.cli import main

    main()
