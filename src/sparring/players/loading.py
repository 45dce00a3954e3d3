"""Models, tokenizers and adapters from a folder or the hub: never remote code, never a pickle."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from sparring.door import check_index, check_model, read_json
from sparring.pulse import beat
from sparring.types import UsageError


def load_model(
    path: str, dtype: str = "auto", revision: str | None = None, device: str | None = None
) -> Any:
    """A causal language model from a local folder or a hub name; never remote code or pickles.

    On `device`, or on the GPU if there is one. The dtype `auto` is that of the files, except for
    bfloat16 on a processor that is quicker in float32, which holds the same weights.
    """
    import torch
    from transformers import AutoModelForCausalLM

    place = _check_folder(path, revision)
    _check_files(place, revision)
    folder = Path(place)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):  # before anything reads a pickle
        pickles = sorted(file.name for file in [*folder.glob("*.bin"), *folder.glob("*.pt*")])
        there = f", only {pickles[0]}, which is a pickle and can run code" if pickles else ""
        raise UsageError(
            f"model_name_or_path: cannot load {place}: no *.safetensors in it{there}; convert it "
            "where you trust it: model.save_pretrained(folder) writes safetensors"
        )
    if dtype == "auto" and stored_dtype(path, revision) == "bfloat16":
        dtype = quicker_dtype() or dtype
    kind = "auto" if dtype == "auto" else getattr(torch, dtype)
    options: dict[str, Any] = {"dtype": kind, "use_safetensors": True, "output_loading_info": True}
    model, loaded = _read(AutoModelForCausalLM, path, revision, **options)
    if missing := sorted(loaded["missing_keys"]):  # transformers would draw them at random
        raise UsageError(
            f"model_name_or_path: cannot load {place}: {len(missing)} weights are in none of its "
            f"files, such as {missing[0]}; copy the model again"
        )
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()


def load_config(path: str, revision: str | None = None) -> Any:
    """The settings of a model, whose weights are not read."""
    from transformers import AutoConfig

    return _read(AutoConfig, path, revision, "the config of ")


def stored_dtype(path: str, revision: str | None = None) -> str:
    """The dtype that a model's settings name, such as `bfloat16`."""
    from transformers import AutoConfig

    return str(_read(AutoConfig, path, revision).dtype).removeprefix("torch.")


@cache
def quicker_dtype() -> str | None:
    """`float32` where a CPU multiplies matrices twice as fast in it, else `bfloat16`.

    Both are tried for a quarter of a second, after a first product that prepares the kernels, once
    in a process. None where there is a GPU.
    """
    import torch

    def products(dtype: torch.dtype) -> int:
        left, right = torch.ones(256, 576, dtype=dtype), torch.ones(576, 1536, dtype=dtype)
        left @ right
        count, end = 0, time.perf_counter() + 0.25
        while time.perf_counter() < end:
            left @ right
            count += 1
        return count

    if torch.cuda.is_available():
        return None
    return "float32" if products(torch.float32) >= 2 * products(torch.bfloat16) else "bfloat16"


def load_tokenizer(path: str, revision: str | None = None) -> Any:
    """The tokenizer beside a model."""
    from transformers import AutoTokenizer

    check_model(folder := Path(_check_folder(path, revision)))
    # Without a vocabulary transformers may make an empty one.
    if folder.is_dir() and not any(any(folder.glob(name)) for name in _VOCABULARIES):
        raise UsageError(
            f"model_name_or_path: no tokenizer in {path}; copy that of the model it was made from "
            "(tokenizer.json, tokenizer_config.json) beside the weights"
        )
    return _read(AutoTokenizer, path, revision, "the tokenizer of ")


def _read(kind: Any, path: str, revision: str | None, what: str = "", **options: Any) -> Any:
    """What a class of transformers reads from a checked folder or hub name."""
    place = _check_folder(path, revision)
    check_model(Path(place))
    options["revision"] = revision or "main"
    with loading(path, what):
        return kind.from_pretrained(place, trust_remote_code=False, **options)


def load_adapter(model: Any, folder: str | Path, field: str = "--adapter") -> Any:
    """A PEFT adapter on `model`, which it changes; never a pickle, which PEFT would take."""
    from peft import PeftModel

    _check_adapter(folder, field)
    return PeftModel.from_pretrained(model, str(folder)).eval()


def base_revision(folder: str | Path, base: str) -> str | None:
    """The commit of `base` that an adapter's config says it was trained on."""
    _check_adapter(folder, "--adapter")
    config = read_json(Path(folder) / "adapter_config.json")
    same = config.get("base_model_name_or_path") == base
    return str(config["revision"]) if same and config.get("revision") else None


def commit(path: str, revision: str | None = None) -> str | None:
    """The commit of a hub model that `revision` (a branch, a tag; None: the newest) names now.

    None for a local folder. A commit is itself, and the hub is not asked.
    """
    from transformers.utils.hub import cached_file

    place = _check_folder(path, revision)
    if Path(place).is_dir() or (revision and _COMMIT.fullmatch(revision)):
        return revision
    with loading(path):
        config = Path(cached_file(place, "config.json", revision=revision or "main") or "")
    name = config.parent.name  # the hub's cache keeps each commit in a folder of that name
    if not _COMMIT.fullmatch(name):
        raise UsageError(f"model_name_or_path: cannot tell which commit of {path} is at {config}")
    return name


def stop_ids(model: Any) -> list[int]:
    """The tokens a model's generation config ends on."""
    eos = getattr(model.generation_config, "eos_token_id", None)
    return [eos] if isinstance(eos, int) else list(eos or [])


def context_of(model: Any) -> int | None:
    """How many tokens a model reads and writes together; None where its config does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def bounded(calls: Sequence[Callable[[], str]], longest: int) -> bool:
    """Whether calls of foreign code end within limits; they are tried in a process of their own.

    Those are 5 s of CPU time, 512 MB more than this process has, and texts of `longest`
    characters. An error of another kind is within them, and comes again where the text is wanted.
    """

    def limited() -> None:
        pages = Path("/proc/self/statm")  # Linux; elsewhere only the time is limited
        if pages.exists():
            size = int(pages.read_text().split()[0]) * resource.getpagesize() + 2**29
            resource.setrlimit(resource.RLIMIT_AS, (size, size))
        resource.setrlimit(resource.RLIMIT_CPU, (5, 5))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for call in calls:
            try:
                within = len(call()) <= longest
            except UsageError as error:
                within = not isinstance(error.__cause__, MemoryError)
            if not within:
                os._exit(1)  # silently, and without what this process does at its end
        os._exit(0)

    child = multiprocessing.get_context("fork").Process(target=limited)
    child.start()
    child.join(60)
    child.kill()
    child.join()
    return child.exitcode == 0


_VOCABULARIES = ("tokenizer.json", "*.model", "vocab*", "*.tiktoken", "tekken.json")
_COMMIT = re.compile("[0-9a-f]{40}")
_HUB = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def _check_folder(path: str, revision: str | None = None) -> str:
    """Where to load from; UsageError if that can be neither a model's folder nor a hub name."""
    place = Path(path).expanduser()
    hub = _HUB.fullmatch(path) and not place.exists() and (revision or not place.parent.is_dir())
    if not hub and not (place / "config.json").is_file():
        raise UsageError(
            f"model_name_or_path: no model at {path} (wanted a folder with config.json, or a hub "
            "name such as Qwen/Qwen2.5-7B-Instruct; where its first part is a folder here, a hub "
            "name needs a revision)"
        )
    if revision and place.is_dir():
        raise UsageError(
            f"revision: {path} is a folder, which has none; leave it out, or give a hub name"
        )
    return path if hub else str(place)


def _check_adapter(folder: str | Path, field: str) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (Path(folder) / name).is_file():
            raise UsageError(f"{field}: no {name} in {folder} (a .bin is a pickle and is not read)")
    check_model(Path(folder))


def _check_files(place: str, revision: str | None) -> None:
    """Refuse a model whose files would lead transformers to others: an adapter, or other shards."""
    from transformers.utils.hub import cached_file

    check_model(Path(place))
    options = ("_raise_exceptions_for_missing_entries", "_raise_exceptions_for_connection_errors")
    silent: Any = dict.fromkeys(options, False)
    with loading(place):
        adapter, index = (
            cached_file(place, name, revision=revision or "main", **silent)
            for name in ("adapter_config.json", "model.safetensors.index.json")
        )
    if adapter:
        raise UsageError(
            f"model_name_or_path: {place} holds an adapter, which names a base of its own; give "
            "the base as the model, and this folder as an adapter"
        )
    if index:
        check_index(Path(index))


@contextmanager
def loading(path: str, what: str = "", field: str = "model_name_or_path") -> Iterator[None]:
    """Turns whatever keeps a model from loading into a UsageError that names field and model."""
    beat(f"loading {path}", 0, 1)
    try:
        yield
    except Exception as error:  # files are foreign, and each format has errors of its own
        reason = str(error).strip().partition("\n")[0]
        if type(error).__name__ == "SafetensorError":
            reason += "; a *.safetensors file is cut, or a pointer that `git lfs pull` replaces"
        raise UsageError(f"{field}: cannot load {what}{path}: {reason}") from error
