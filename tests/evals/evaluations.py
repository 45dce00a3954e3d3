"""Small evaluations of tiny models on harmless prompts, and readers of their output files."""

import json
from pathlib import Path
from typing import Any

from tests.command import Ended, sparring_command
from tests.tiny import QWEN2, save_model, write_seeds


def place(folder: Path) -> Path:
    """A folder with a tiny chat model and a file of eight harmless seeds."""
    save_model(folder / "qwen2", QWEN2)
    write_seeds(folder / "seeds.csv")
    return folder


def evaluate(
    *words: object, tasks: object = "seeds.csv", judge: str = "keyword", length: int = 4
) -> Ended:
    """Run `sparring eval` with small settings in the current folder."""
    common = ("--tasks", tasks, "--judge", judge, "--max-completion-length", length)
    return sparring_command("eval", *words, *common)


def results(folder: Path) -> list[dict[str, Any]]:
    """The rows of results.json."""
    return json.loads((folder / "results.json").read_bytes())["results"]


def row(folder: Path, name: str, model: str | None = None) -> dict[str, Any]:
    """The row of one rate in results.json."""
    [rate] = [r for r in results(folder) if r["name"] == name and model in (None, r["model"])]
    return rate


def samples(folder: Path) -> list[dict[str, Any]]:
    """Every sample in samples.jsonl."""
    return [json.loads(line) for line in (folder / "samples.jsonl").read_bytes().split(b"\n")[:-1]]


def keys(folder: Path) -> list[tuple[Any, ...]]:
    """The keys of the recorded samples, in order."""
    return [(r["model"], r["set"], r["place"], r["draw"]) for r in samples(folder)]
