"""Who is asked: models in this process, with adapters or without, or behind a URL."""

from __future__ import annotations

import gc
import hashlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sparring.checkpoint import sha256
from sparring.evaluating.remote import Remote
from sparring.judges.api import Server
from sparring.policies.chat import Chat
from sparring.policies.loading import (
    base_revision,
    commit,
    load_adapter,
    load_model,
    load_tokenizer,
    stop_ids,
)
from sparring.policies.local import LocalPolicy, Sampling
from sparring.policies.policy import Policy
from sparring.policies.weights import Weights
from sparring.recipes.parts import model_path
from sparring.recipes.pinning import at_commit
from sparring.types import UsageError

_WHOLE = 64 * 2**20
_END = 2**20


class Candidate(Protocol):
    """A model that can be asked."""

    @property
    def name(self) -> str:
        """How samples and results name it."""
        ...

    def card(self) -> dict[str, Any]:
        """What tells it from any other; part of what was asked."""
        ...

    def open(self) -> AbstractContextManager[Policy]:
        """Ready to speak within the block."""
        ...


@dataclass(frozen=True)
class Local:
    """A model in this process, at one commit if it is the hub's; perhaps with an adapter."""

    model: str
    sampling: Sampling
    revision: str | None = None
    adapter: str | None = None

    @property
    def name(self) -> str:
        return f"{self.model} + {self.adapter}" if self.adapter else self.model

    def card(self) -> dict[str, Any]:
        path = Path(model_path(self.model)).expanduser()
        return {
            "name": self.name,
            "kind": "local",
            "revision": self.revision,
            "digest": quick_digest(path) if path.is_dir() else None,
            "adapter": self.adapter and quick_digest(Path(self.adapter)),
        }

    @contextmanager
    def open(self) -> Iterator[Policy]:
        path = model_path(self.model)
        model = load_model(path, revision=self.revision)
        chat = Chat(load_tokenizer(path, self.revision), stop_ids(model))
        if self.adapter:
            model = load_adapter(model, self.adapter)
        yield LocalPolicy(Weights(model), chat, self.sampling)
        del model
        freed()


@dataclass(frozen=True)
class Served:
    """A model that a server knows by `model`; `shown` is where, without what might be secret."""

    model: str
    server: Server = field(repr=False)
    shown: str
    sampling: Sampling

    @property
    def name(self) -> str:
        return self.model

    def card(self) -> dict[str, Any]:
        return {"name": self.model, "kind": "served", "base_url": self.shown}

    @contextmanager
    def open(self) -> Iterator[Policy]:
        told = self.sampling
        yield Remote(self.server, told.temperature, told.max_completion_length)


@dataclass(frozen=True)
class Wanted:
    """Models as they were asked for; `base` false leaves the base out beside its adapters."""

    models: Sequence[str]
    adapters: Sequence[str]
    sampling: Sampling
    revision: str | None = None
    base: bool = True

    def __post_init__(self) -> None:
        if len({*self.models}) < len(self.models) or len({*self.adapters}) < len(self.adapters):
            raise UsageError("MODEL: the same one is asked for twice")
        if self.adapters and len(self.models) != 1:
            raise UsageError("--adapter: wanted one MODEL, which they belong to")
        if self.revision and len(self.models) != 1:
            raise UsageError("--revision: wanted one MODEL, which it is of")

    def revision_of(self, model: str) -> str | None:
        """The commit asked for, or the one of `model` that all adapters say they are trained on."""
        known = {a: told for a in self.adapters if (told := base_revision(a, model))}
        if not self.revision and len({*known.values()}) > 1:
            raise UsageError(
                f"--adapter: trained on different commits of {model}: "
                f"{', '.join(f'{a} on {told}' for a, told in known.items())}; give --revision, or "
                "test them apart"
            )
        return self.revision or next(iter(known.values()), None)


def local(wanted: Wanted) -> tuple[list[Candidate], list[str]]:
    """Candidates at one commit each, checked but not loaded; and what to say of commits found.

    An adapter knows the commit of the base that it was trained on. The base comes first.
    """
    told: list[Candidate] = []
    notes: list[str] = []
    for name in wanted.models:
        now = commit(model_path(name), wanted.revision_of(name))
        notes += [at_commit(name, wanted.revision, now)] if now != wanted.revision else []
        if wanted.base or not wanted.adapters:
            told.append(Local(name, wanted.sampling, now))
        told += [Local(name, wanted.sampling, now, adapter) for adapter in wanted.adapters]
    return told, notes


def served(wanted: Wanted, server: Server) -> list[Candidate]:
    """Candidates behind one URL; an adapter is a model by the name the server knows it by."""
    if wanted.revision:
        raise UsageError("--revision: is the server's to choose; leave it out with --base-url")
    names = [*(wanted.models if wanted.base or not wanted.adapters else ()), *wanted.adapters]
    return [
        Served(name, _asking(server, name), server.address.shown, wanted.sampling) for name in names
    ]


def _asking(server: Server, model: str) -> Server:
    return Server(server.address, model, key=server.key, proxy=server.proxy, limits=server.limits)


def quick_digest(folder: Path) -> str:
    """What tells a folder's models apart, in a second: files whole up to 64 MB, larger ones by
    size, first and last MB. Training changes every part of a weight file.
    """
    found = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors")):
        size = path.stat().st_size
        found.update(f"{path.name} {size} ".encode())
        found.update(sha256(path).encode() if size <= _WHOLE else _ends(path, size))
    return found.hexdigest()


def _ends(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        first = file.read(_END)
        file.seek(size - _END)
        return first + file.read()


def freed() -> None:
    """Give the memory of a model that nobody holds any more back."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
