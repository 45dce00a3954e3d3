"""The one door to a folder that nobody vouches for: only regular files inside it are touched."""

import contextlib
import hashlib
import json
import math
import os
import re
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from sparring.types import CorruptError, SparringError, UsageError

MOST_BYTES = 256 * 2**20
"""The largest file that is read whole: ten times a tokenizer of 2026."""
MANIFEST = "MANIFEST.json"
"""The file of a checkpoint that holds the sha256 of every other one."""
_UNREADABLE = (
    *(ValueError, LookupError, TypeError, AttributeError, OverflowError),
    *(EOFError, OSError, RecursionError, zlib.error),
)
_WHOLE, _END = 64 * 2**20, 2**20
MODEL_FILES = {".safetensors", ".json", ".jinja", ".txt", ".model"}
"""The endings of the files that a model's folder is made of."""


def inside(folder: Path, *names: str) -> Path:
    """Return the path of something below `folder`, whether or not it is there yet.

    UsageError where the way leads out of the folder, or where a part of it is a link, a device, a
    pipe or a socket: another file would be read, or written, in its place.
    """
    path = folder
    for name in Path(*names).parts:
        path /= name
        if name in (os.sep, os.pardir):
            raise UsageError(f"{path}: leads out of {folder}; only what lies inside is used")
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                kind = "a link" if stat.S_ISLNK(mode) else "a device, a pipe or a socket"
                raise UsageError(
                    f"{path}: is {kind}; it could lead out of {folder}, which may be another "
                    "person's, so nothing is read or written through it: put a regular file or "
                    "folder in its place"
                )
    return path


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever is wrong with a file's contents into a CorruptError that names the file."""
    try:
        yield
    except _UNREADABLE as error:
        raise CorruptError(f"{path}: is not what was written: {error!r:.200}") from error


def opened(path: Path) -> BinaryIO:
    """Open a file to read it; OSError for a link, and for what is no file, without waiting."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError("it is no regular file")
    return os.fdopen(handle, "rb")


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """Return what a file holds; CorruptError names one that is no file, or larger than `most`."""
    with reading(path), opened(path) as file:
        data = file.read(most + 1)
        if len(data) > most:
            raise ValueError(f"it is larger than {most:,} bytes")
    return data


def parsed(data: bytes) -> Any:
    """Return the value of JSON, in which a number that is not finite is a text.

    We write none, and so whatever checks the value refuses it and can name its field.
    """
    return json.loads(data, parse_constant=_number, parse_float=_number)


def _number(text: str) -> float | str:
    return number if math.isfinite(number := float(text)) else f"{text:.20}, not a finite number"


def read_json(path: Path) -> Any:
    """Return the value of a JSON file; CorruptError names a file that holds none."""
    data = read_bytes(path)
    with reading(path):
        return parsed(data)


def sha256(path: Path) -> str:
    """Return the hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file in a checkpoint but its manifest, by its path in there."""
    names = (str(path.relative_to(folder)) for path in sorted(folder.rglob("*")))
    files = {name: path for name in names if not (path := inside(folder, name)).is_dir()}
    return {name: sha256(path) for name, path in files.items() if name != MANIFEST}


def check_manifest(folder: Path, part: str = "") -> None:
    """Compare a checkpoint, or one of its folders, with its manifest; CorruptError names a file."""
    manifest = read_json(inside(folder, MANIFEST))
    with reading(folder / MANIFEST):
        written = {str(name): str(digest) for name, digest in manifest["sha256"].items()}
    present = {f"{part}{name}": digest for name, digest in digests(folder / part).items()}
    for name in sorted(present.keys() - written.keys()):
        raise CorruptError(f"{folder / name}: is not in the manifest")
    for name, digest in written.items():
        if name.startswith(part) and present.get(name) != digest:
            raise CorruptError(f"{folder / name}: does not match what was written")


M = TypeVar("M", bound=BaseModel)


def checked(model: type[M], value: Any, where: object) -> M:
    """Return `value` as that model; CorruptError says `where` and which field is wrong."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        why = f"{field}: {first['msg']}" if field else first["msg"]
        raise CorruptError(f"{where}: is not what was written: {why:.300}") from error


class _Index(BaseModel):
    """A `*.safetensors.index.json`: which file beside it holds which tensor."""

    metadata: dict[str, Any]
    weight_map: dict[str, Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*\.safetensors$")]]


def _quick_pattern(text: str) -> str:
    if re.search(r"([^+*{]*[+*{]){4}|\)[+*{]", text):
        raise ValueError("wanted names of modules, or a pattern that cannot take for ever")
    return text


_Rank = Annotated[int, Field(ge=1, le=2**14)]
_Pattern = Annotated[str, AfterValidator(_quick_pattern)]
_Modules = list[_Pattern] | _Pattern | None
_FREE = """
auto_mapping base_model_name_or_path bias ensure_weight_tying fan_in_fan_out inference_mode
init_lora_weights layers_to_transform lora_alpha lora_bias lora_dropout megatron_core
modules_to_save peft_version qalora_group_size revision target_parameters task_type
trainable_token_indices use_dora use_rslora
"""
"""Options of LoRA that may have any value: PEFT computes with them and opens nothing."""


class AdapterConfig(BaseModel):
    """An adapter_config.json of LoRA, which names nothing that PEFT would follow elsewhere.

    Other types of PEFT read paths of their own (prompt tuning, XLoRA), and so do some options of
    LoRA, or they import a module by its name: what is not known here has to be empty.
    """

    model_config = ConfigDict(extra="allow")

    peft_type: Literal["LORA"]
    r: _Rank = 8
    rank_pattern: dict[_Pattern, _Rank] | None = None
    alpha_pattern: dict[_Pattern, float] | None = None
    layers_pattern: _Modules = None
    target_modules: _Modules = None
    exclude_modules: _Modules = None

    @model_validator(mode="after")
    def _nothing_else(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            if value and name not in _FREE.split():
                raise ValueError(f"{name} is set, an option that sparring does not load")
        return self


def check_model(folder: Path) -> None:
    """Refuse a model's or an adapter's folder whose files would lead its loaders elsewhere.

    Libraries open these files by themselves, so all of them are looked at before. A folder of a
    checkpoint is compared with its manifest. UsageError names the file.
    """
    root = folder.resolve()
    if not root.is_dir():  # a name on the hub
        return
    with _loading(folder):
        for path in [*root.iterdir(), *root.glob("additional_chat_templates/*")]:
            if not path.is_dir():  # which no loader enters
                _check_file(root, path)
        if (root.parent / MANIFEST).is_file():
            check_manifest(root.parent, f"{root.name}/")


@contextlib.contextmanager
def _loading(folder: Path) -> Iterator[None]:
    try:
        yield
    except (SparringError, OSError) as error:
        raise UsageError(f"model_name_or_path: cannot load {folder}: {error}") from error


def _check_file(root: Path, path: Path) -> None:
    # The hub's cache keeps a commit as links from snapshots/COMMIT into the blobs beside it.
    blobs = root.parents[1] / "blobs" if root.parent.name == "snapshots" else None
    if path.resolve().parent != blobs:
        inside(root, *path.relative_to(root).parts)
    if path.suffix == ".json":
        value = _json(path)
        if path.name == "adapter_config.json":
            checked(AdapterConfig, value, path)


def _json(path: Path) -> Any:
    """Return JSON of a model, which may hold Infinity: Mamba's config does."""
    data = read_bytes(path.resolve())
    with reading(path):
        return json.loads(data)


def check_index(path: Path) -> None:
    """Refuse a model.safetensors.index.json that names other files than safetensors beside it."""
    with _loading(path.parent):
        checked(_Index, _json(path), path)


def identity(folder: Path) -> dict[str, str]:
    """Return a digest of every file that a model is made of, in a second.

    A file counts whole up to 64 MB, a larger one by its size, its first and its last MB: training
    changes every part of a file of weights.
    """
    return {
        path.name: _quick_digest(path)
        for path in sorted(folder.iterdir())
        if path.suffix in MODEL_FILES and path.is_file()
    }


def _quick_digest(path: Path) -> str:
    if (size := path.stat().st_size) <= _WHOLE:
        return sha256(path)
    with path.open("rb") as file:
        digest = hashlib.sha256(f"{size} ".encode() + file.read(_END))
        file.seek(size - _END)
        digest.update(file.read())
    return digest.hexdigest()
