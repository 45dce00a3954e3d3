"""Run the command line as a user would, in this process or in a new one."""

import contextlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import sparring


@dataclass(frozen=True)
class Ended:
    """A command's exit code and output; `text` is both streams with white space folded."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return " ".join(f"{self.out} {self.err}".split())


def sparring_command(*words: object) -> Ended:
    """Run `sparring words…` in this process; an unexpected exception passes through."""
    from sparring.cli import main

    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    wide = patch.dict(os.environ, COLUMNS="1000")  # no path is broken into two lines
    argv = ["sparring", *map(str, words)]
    streams = (contextlib.redirect_stdout(out), contextlib.redirect_stderr(err))
    with patch.object(sys, "argv", argv), wide, streams[0], streams[1]:
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    return Ended(code if isinstance(code, int) else 1, out.getvalue(), err.getvalue())


def sparring_process(*words: object, cwd: Path) -> Ended:
    """Run `sparring words…` in a new process."""
    source = str(Path(sparring.__file__).parents[1])
    env = os.environ | {"PYTHONPATH": source, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-c", "from sparring.cli import main; main()", *map(str, words)],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return Ended(process.returncode, process.stdout, process.stderr)
