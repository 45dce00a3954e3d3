"""The processes of one run: each does a share of the work, and all know the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
U = TypeVar("U")


class Ranks(Protocol):
    """This process among those that share a run; every method is called by all, in step."""

    @property
    def index(self) -> int:
        """Which one this is; 0 writes the records."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def gather(self, mine: T) -> list[T]:
        """What everyone holds, by rank."""
        ...

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Each tensor becomes its sum over the ranks, in place."""
        ...


@dataclass(frozen=True)
class Alone:
    """One process: nothing to share, nothing to wait for."""

    index: int = 0
    size: int = 1

    def gather(self, mine: T) -> list[T]:
        return [mine]

    def add(self, tensors: Iterable[Tensor]) -> None:
        return None


ALONE = Alone()


@dataclass(frozen=True)
class Launched:
    """Processes that accelerate or torchrun started: NCCL between GPUs, gloo between CPUs.

    What is gathered travels pickled between the processes of this run and is never stored.
    """

    index: int
    size: int

    def gather(self, mine: T) -> list[T]:
        import torch.distributed as dist

        told: list[Any] = [None] * self.size
        dist.all_gather_object(told, mine)
        return told

    def add(self, tensors: Iterable[Tensor]) -> None:
        """As one flat tensor for each dtype: one message costs less than hundreds."""
        import torch
        import torch.distributed as dist

        kinds: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            kinds.setdefault(tensor.dtype, []).append(tensor)
        for same in kinds.values():
            flat = torch.cat([tensor.reshape(-1) for tensor in same])
            dist.all_reduce(flat)
            for tensor, total in zip(
                same, torch.split(flat, [t.numel() for t in same]), strict=True
            ):
                tensor.copy_(total.view_as(tensor))


def launched() -> Ranks:
    """Who this process is, from the environment that a launcher left; `Alone` without one.

    Joins the process group, on the GPU of its local rank if there is one. Every process reads the
    models it uses, a judge's too, although accelerate may say that only the first should.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    import torch
    from accelerate import PartialState

    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"  # transformers would leave them empty
    state = PartialState(cpu=not torch.cuda.is_available())
    if torch.cuda.is_available():
        torch.cuda.set_device(state.device)
    return Launched(state.process_index, state.num_processes)


def first_to_say(text: str) -> bool:
    """Whether no other process of this launch has said `text` yet; whoever cannot ask says it.

    Asks the store that torchrun and accelerate keep in the launcher, outside the process group: a
    process that fails may not have joined it yet, and the others may never fail.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return True
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    name = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=5))
        return bool(store.add(f"sparring/said/{name}", 1) == 1)
    except (LookupError, ValueError, RuntimeError):
        return True


def shared_out(
    ranks: Ranks, items: Sequence[T], work: Callable[[Sequence[T]], Sequence[U]]
) -> list[U]:
    """`work(items)`, every rank doing each `size`-th item; all get all results, in order."""
    if ranks.size == 1:
        return list(work(items))
    shares = ranks.gather(list(work(items[ranks.index :: ranks.size])))
    told: list[Any] = [None] * len(items)
    for index, share in enumerate(shares):
        told[index :: ranks.size] = share
    return told
