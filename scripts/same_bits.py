"""Plays short runs with the code of BASE and with this checkout's, and compares every bit of them.

    scripts/same-bits BASE             every scene: a few minutes on one core
    scripts/same-bits BASE --quick     a run of each kind of weights: less than a minute
    scripts/same-bits BASE --only 'ssp*,config'

Compared are exit codes, printed JSON, and every file that is written: weights and moments by
tensor, rounds, openings, transcripts, results. Clocks, paths and the digests of whole files are
left out; sentences that are written for people only count with --text, and with --ignore-new
nothing counts that is only added. Each item is one line, `same` or `DIFFERENT: the first
difference`; the exit code is 1 if anything differs.

What BASE does is kept in ${XDG_CACHE_HOME:-~/.cache}/sparring-same-bits by the content of its
src/, so a second comparison with it only plays this checkout. Everything goes through the command
line (`python -m sparring`), because the modules behind it may have other names in BASE.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import gzip
import hashlib
import io
import json
import os
import re
import runpy
import shlex
import shutil
import signal
import string
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparring-same-bits"
SECONDS = 600
"""The time limit of a command."""


TABLE = Path(__file__).with_suffix(".yaml")
PLAYED = yaml.safe_load(TABLE.read_text())


def expanded(command: str) -> str:
    """The command with each `$name` replaced by the words that the table has for it."""
    while "$" in command:
        command = string.Template(command).substitute(PLAYED["words"])
    return command


@dataclass(frozen=True)
class Scene:
    """Commands played one after the other in a folder of their own, beside those of `needs`."""

    name: str
    commands: Sequence[str]
    needs: Sequence[str] = ()
    quick: bool = False


SCENES = tuple(Scene(name, **scene) for name, scene in PLAYED["scenes"].items())
BY_NAME = {scene.name: scene for scene in SCENES}


def chosen(quick: bool, only: str | None) -> list[Scene]:
    """The scenes that `--quick` and `--only` select, in the order of the table."""
    patterns = [pattern.strip() for pattern in only.split(",")] if only else ["*"]
    scenes = [s for s in SCENES if any(fnmatch.fnmatch(s.name, p) for p in patterns)]
    return [scene for scene in scenes if scene.quick or not quick]


def with_needs(scenes: Iterable[Scene]) -> list[Scene]:
    """The scenes and all that they need, in the order of the table."""
    names = {scene.name for scene in scenes}
    while more := {need for name in names for need in BY_NAME[name].needs} - names:
        names |= more
    return [scene for scene in SCENES if scene.name in names]


def play(source: Path, scenes: Sequence[Scene], work: Path) -> dict[str, Any]:
    """The records of scenes played by the code in `source`, in a process of its own."""
    path = [f"{source}", *filter(None, [os.environ.get("PYTHONPATH")])]
    keep = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    environment = {**keep, **PLAYED["environment"], "PYTHONPATH": os.pathsep.join(path)}
    names = [scene.name for scene in scenes]
    command = [sys.executable, "-P", __file__, "--play", f"{source}", f"{work}", *names]
    subprocess.run(command, env=environment, check=True)
    return {name: json.loads((work / f"{name}.json").read_bytes()) for name in names}


def serve(source: Path, work: Path, names: Sequence[str]) -> None:
    """Play scenes: each command is forked from this process, which has imported the libraries."""
    for library in ("torch", "transformers", "peft", "typer", "pydantic", "rich.console", "scipy"):
        __import__(library)
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM  # noqa: F401 - these load lazily

    torch.set_num_threads(1)
    for command in PLAYED["preload"]:
        sys.argv = ["sparring", *expanded(command).split()]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
            runpy.run_module("sparring", run_name="__main__")
    for place, name in enumerate(names):
        scene, folder = BY_NAME[name], work / name
        folder.mkdir()
        for file, text in PLAYED["files"].items():
            (folder / file).write_text(text)
        started = time.perf_counter()
        commands = [_command(command, folder, source, work) for command in scene.commands]
        record = {"commands": commands, "files": files(folder, (source, work))}
        (work / f"{name}.json").write_text(json.dumps(record))
        print(f"  {name} ({time.perf_counter() - started:.0f} s)", file=sys.stderr, flush=True)
        needed = {need for later in names[place + 1 :] for need in BY_NAME[later].needs}
        for done in {*names[: place + 1]} - needed:
            shutil.rmtree(work / done, ignore_errors=True)


def _command(command: str, folder: Path, source: Path, work: Path) -> dict[str, Any]:
    """How a command ended, and what it printed, without paths."""
    words = shlex.split(expanded(command))
    streams = [work / "out", work / "err"]
    if (process := os.fork()) == 0:
        _become(words, folder, streams)
    _, status = os.waitpid(process, 0)
    out, err = (clean(path.read_text("utf-8", "replace"), (source, work)) for path in streams)
    return {
        "command": " ".join(words),
        "exit code": os.waitstatus_to_exitcode(status),
        "printed": printed(words, out),
        "text": {"out": out.splitlines(), "err": err.splitlines()},
    }


def _become(words: Sequence[str], folder: Path, streams: Sequence[Path]) -> None:
    """Run `sparring words…` in this forked process and exit; never returns."""
    code = 70
    try:
        for handle, path in zip((1, 2), streams, strict=True):
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, handle)
            os.close(file)
        os.chdir(folder)
        signal.alarm(SECONDS)
        sys.argv = ["sparring", *words]
        runpy.run_module("sparring", run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


TIME = r"\d{4}-\d\d-\d\d[T ]\d\d[:-]\d\d[:-]\d\d([.]\d+)?(Z|[+-]\d\d:?\d\d)?"
CLOCKS = {"seconds", "cpu_seconds", "time"}
SENTENCES = {"caveat", "description", "title", "note", "notes"}
"""Keys of JSON whose values are written for people."""
DERIVED = {"adapter", "manifest_sha256", "rounds.jsonl", "exams/openings.jsonl.gz"}
"""Keys of JSON that hold digests of whole files; the files themselves are compared."""
DIGESTS = ("MANIFEST.json", "latest")
"""These hold digests of whole files, which hold paths and clocks."""
PROSE = {".html", ".md", ".svg", ".txt", ".css", ".js"}


def clean(text: str, paths: Sequence[Path]) -> str:
    """The text without the paths that differ between two trees."""
    for path, name in zip(paths, ("<src>", "<here>"), strict=True):
        text = text.replace(f"{path}", name)
    text = re.sub(r"[0-9]+[.][0-9]+ ?s\b", "<seconds>", text)
    text = re.sub(TIME, "<time>", text)
    return re.sub(r"[.]tmp-[0-9]+", ".tmp", text)


def printed(words: Sequence[str], out: str) -> Any:
    """What a machine reads of a command's output: JSON, JSON lines or YAML; None for prose."""
    with contextlib.suppress(ValueError, yaml.YAMLError):
        if words[0] == "init" or words[:2] == ["config", "show"]:
            return yaml.safe_load(out)
        return _inlined(without(json.loads(out)))
    with contextlib.suppress(ValueError):
        return [without(json.loads(line)) for line in out.splitlines()] or None
    return None


def _inlined(value: Any) -> Any:
    """A JSON schema without the names of the classes behind it; other JSON as it is."""
    parts = value.get("$defs") if isinstance(value, dict) else None
    if not parts:
        return value

    def walk(inner: Any) -> Any:
        if isinstance(inner, list):
            return [*map(walk, inner)]
        if not isinstance(inner, dict):
            return inner
        rest = {key: walk(below) for key, below in inner.items() if key not in ("$ref", "$defs")}
        name = str(inner.get("$ref", "")).rpartition("/")[2]
        return {**(walk(parts[name]) if name else {}), **rest}

    return walk(value)


def without(value: Any) -> Any:
    """JSON without clocks, and without digests of files that hold paths, clocks or settings."""
    if isinstance(value, dict):
        plain = {key: without(inner) for key, inner in value.items() if key not in CLOCKS}
        for key in plain.keys() & DERIVED:
            plain[key] = re.sub(r"\b[0-9a-f]{64}\b", "<sha256>", str(plain[key]))
        return plain
    return [*map(without, value)] if isinstance(value, list) else value


def files(folder: Path, paths: Sequence[Path]) -> dict[str, Any]:
    """Every file below a folder as plain data, by its relative path.

    A name that is a digest of settings would change with any new one: such files are numbered
    in the order of what they hold.
    """
    named = []
    for path in (path for path in folder.rglob("*") if path.is_file()):
        name = re.sub(TIME, "<time>", str(path.relative_to(folder)))
        plain = re.sub(r"[0-9a-f]{16,}", "<digest>", name)
        file = content(path, paths)
        named.append((plain, json.dumps(file) if plain != name else name, file))
    by_name: dict[str, Any] = {}
    for plain, _, file in sorted(named, key=lambda item: item[:2]):
        twins = sum(name.startswith(plain) for name in by_name) if "<digest>" in plain else 0
        by_name[f"{plain} {twins + 1}" if twins else plain] = file
    return by_name


def content(path: Path, paths: Sequence[Path]) -> dict[str, Any]:
    """What of a file is compared: its kind, and its data without clocks, paths and digests."""
    if path.suffix == ".safetensors":
        kind = "moments" if "optim" in path.name else "weights"
        return {"kind": kind, "data": tensors(path)}
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    try:
        text = clean(raw.decode(), paths)
    except UnicodeDecodeError:
        return {"kind": "pictures", "data": None}
    if path.suffix in PROSE:
        return {"kind": "text", "data": text.splitlines()}
    if path.name in DIGESTS:
        text = re.sub(r"\b[0-9a-f]{64}\b", "<sha256>", text)
    return {"kind": _kind(path), "data": _parsed(path, text)}


def _parsed(path: Path, text: str) -> Any:
    with contextlib.suppress(ValueError, yaml.YAMLError):
        if path.suffix == ".yaml":
            return yaml.safe_load(text)
        if ".jsonl" not in path.name:
            value = without(json.loads(text))
            return sorted(value) if path.name == "env.json" else value  # what the machine is
        rows = [without(json.loads(line)) for line in text.splitlines()]
        if path.name == "rounds.jsonl":  # what rulings cost
            rows = [{key: row[key] for key in row if key != "judge"} for row in rows]
        return rows
    return text.splitlines()


def _kind(path: Path) -> str:
    kinds = PLAYED["kinds"].items()
    return next((name for name, there in kinds if re.search(there, f"{path}")), "other files")


def tensors(path: Path) -> dict[str, Any]:
    """Every tensor of a safetensors file: type, shape, norm, and the digest of its bytes."""
    import torch
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        described: dict[str, Any] = {"__metadata__": file.metadata()}
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name)
            digest = hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy()).hexdigest()[:16]
            shape = "x".join(map(str, tensor.shape))
            described[name] = f"{tensor.dtype} {shape} norm {tensor.double().norm():.9g} {digest}"
    return described


def differences(
    base: Any, head: Any, where: str = "", new: bool = True
) -> Iterator[tuple[str, str, str]]:
    """Where two plain values differ, and what stands there; keys of `head` alone only if `new`."""
    if isinstance(base, dict) and isinstance(head, dict):
        for key in [*base, *(key for key in head if key not in base)]:
            inner = f"{where}.{key}" if where else f"{key}"
            if key not in base:
                yield from [(inner, "nothing", _short(head[key]))] if new else []
            elif key not in head:
                yield inner, _short(base[key]), "nothing"
            else:
                yield from differences(base[key], head[key], inner, new)
    elif isinstance(base, list) and isinstance(head, list):
        for place, pair in enumerate(zip(base, head, strict=False)):
            yield from differences(*pair, f"{where}[{place}]", new)
        if len(base) != len(head):
            yield where, f"{len(base)} entries", f"{len(head)} entries"
    elif json.dumps(base) != json.dumps(head):
        yield where, _short(base), _short(head)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 90 else f"{text[:87]}..."


def compare(
    base: Mapping[str, Any], head: Mapping[str, Any], text: bool, new: bool = True
) -> dict[str, list[str]]:
    """By item: what differs between two records of one scene; `new`: additions count too."""
    items: dict[str, list[str]] = {}
    keys = ("exit code", "printed", *(("text",) if text else ()))

    def listed(before: Any, after: Any, name: str = "") -> list[str]:
        return [
            f"{name}{where}: {a} → {b}"
            for where, a, b in differences(before, after, new=new)
            if text or not SENTENCES & set(re.split(r"[.\[]", where))
        ]

    for before, after in zip(base["commands"], head["commands"], strict=True):
        lines = listed(*({key: record[key] for key in keys} for record in (before, after)))
        if before["exit code"] != after["exit code"]:
            lines[:1] = [f"{lines[0]} ({(after['text']['err'] or [''])[-1]:.200})"]
        items.setdefault(f"`{before['command']:.60}`", []).extend(lines)
    added = {name: file for name, file in head["files"].items() if name not in base["files"]}
    for name, file in base["files"].items():
        lines = items.setdefault(file["kind"], [])
        if name in head["files"]:
            if file["kind"] != "text" or text:
                lines += listed(file["data"], head["files"][name]["data"], f"{name}: ")
            continue
        twins = (n for n in added if added[n]["data"] == file["data"] != [])
        twin = next(twins, None)
        added.pop(twin or "", None)
        what = f"is now called {twin}" if twin else "is not written any more"
        lines.append(f"{name} {what}")
    for name, file in added.items() if new else ():
        items.setdefault(file["kind"], []).append(f"{name} is new")
    return items


def base_records(base: str, scenes: Sequence[Scene], work: Path) -> dict[str, Any]:
    """What the code of BASE does, from the cache where it was played before."""
    tree = _git("rev-parse", "--verify", f"{base}:src").decode()[:16]
    cache = CACHE / f"{tree}-{_world()}"
    cached = {s.name: cache / f"{s.name}.json.gz" for s in scenes}
    missing = [scene for scene in scenes if not cached[scene.name].is_file()]
    if missing:
        print(f"playing {base}", file=sys.stderr)
        with tarfile.open(fileobj=io.BytesIO(_git("archive", base, "src"))) as tar:
            tar.extractall(work, filter="data")
        (work / "played").mkdir()
        played = play(work / "src", with_needs(missing), work / "played")
        cache.mkdir(parents=True, exist_ok=True)
        for name, record in played.items():
            temporary = cache / f"{name}.tmp-{os.getpid()}"
            temporary.write_bytes(gzip.compress(json.dumps(record).encode()))
            temporary.replace(cache / f"{name}.json.gz")
    return {name: json.loads(gzip.decompress(path.read_bytes())) for name, path in cached.items()}


def _world() -> str:
    """What a record depends on beside the code: this script, the machine, the libraries."""
    from importlib.metadata import distributions

    libraries = sorted(f"{d.name} {d.version}" for d in distributions() if d.name != "sparring")
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.is_file() else []
    machine = sorted({line for line in lines if line.startswith(("model name", "flags"))})
    variables = [f"{k}={os.environ.get(k)}" for k in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")]
    own = [path.read_text() for path in (Path(__file__), TABLE)]
    parts = [sys.version, *libraries, *machine, *variables, *own]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _git(*words: str) -> bytes:
    ended = subprocess.run(["git", "-C", f"{ROOT}", *words], capture_output=True, check=False)
    if ended.returncode:
        sys.exit(f"same-bits: git {' '.join(words)}: {ended.stderr.decode().strip()}")
    return ended.stdout


def main() -> int:
    """Play the scenes with both versions, compare them, and print a line for each item."""
    parser = argparse.ArgumentParser(
        prog="scripts/same-bits",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("base", metavar="BASE", help="a commit, branch or tag")
    parser.add_argument("--quick", action="store_true", help="fewer scenes")
    parser.add_argument("--only", metavar="GLOB", help="scenes by name, with commas")
    parser.add_argument("--text", action="store_true", help="sentences for people count too")
    parser.add_argument(
        "--ignore-new", action="store_true", help="settings, fields and files that BASE has not"
    )
    arguments = parser.parse_args()
    scenes = chosen(arguments.quick, arguments.only)
    if not scenes:
        parser.error(f"no such scene; known: {', '.join(BY_NAME)}")
    with tempfile.TemporaryDirectory(prefix="same-bits-") as folder:
        before, now = (Path(folder) / name for name in ("base", "head"))
        before.mkdir()
        now.mkdir()
        base = base_records(arguments.base, scenes, before)
        shutil.rmtree(before)
        print("playing this checkout", file=sys.stderr)
        shutil.copytree(ROOT / "src", now / "src")  # edits meanwhile do not count
        (now / "played").mkdir()
        head = play(now / "src", with_needs(scenes), now / "played")
    different = 0
    for scene in scenes:
        records = base[scene.name], head[scene.name]
        for item, lines in compare(*records, arguments.text, not arguments.ignore_new).items():
            more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
            verdict = f"DIFFERENT: {lines[0]}{more}" if lines else "same"
            print(f"{scene.name:16s} {item:44s} {verdict}")
            different += bool(lines)
    print(f"{different} items differ from {arguments.base}" if different else "all the same bits")
    return int(different > 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--play"]:
        serve(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
    else:
        sys.exit(main())
