"""The processes of one run: they share its work, and perhaps a frozen base's layers (FSDP2)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sparring.types import SparringError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from sparring.players.weights import Weights

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Ranks:
    """This process among those that share a run; every method is called by all, in step.

    Rank 0 writes the records. Several processes were started by accelerate or torchrun: NCCL
    between GPUs, gloo between CPUs. What is gathered travels pickled between the processes of this
    run and is never stored.
    """

    index: int = 0
    size: int = 1

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in their order."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor becomes its sum over the ranks, in place.

        They travel as one flat tensor for each dtype: one message costs less than hundreds.
        """
        if self.size == 1:
            return
        import torch
        import torch.distributed as dist

        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            same = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in same])
            dist.all_reduce(flat)
            totals = torch.split(flat, [tensor.numel() for tensor in same])
            for tensor, total in zip(same, totals, strict=True):
                tensor.copy_(total.view_as(tensor))


ALONE = Ranks()
"""One process: nothing to share, nothing to wait for."""


def launched(patience: float) -> Ranks:
    """Who this process is, from the environment that a launcher left; `ALONE` without one.

    Joins the process group, on the GPU of its local rank if there is one; the others are waited for
    `patience` seconds. Every process reads the models it uses, a judge's too, although accelerate
    may say that only the first should.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    import torch
    from accelerate import PartialState

    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"  # transformers would leave them empty
    limit = timedelta(seconds=patience)
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=limit)
    if torch.cuda.is_available():
        torch.cuda.set_device(state.device)
    return Ranks(state.process_index, state.num_processes)


_CONTAINER = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def free_memory() -> float:
    """Bytes that this process may fill: of its GPU, or its share of the machine's memory.

    Where a container has a lower limit than the machine, that counts.
    """
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[0])
    import psutil

    free: float = psutil.virtual_memory().available
    for file in map(Path, _CONTAINER):
        limit = file.read_text().strip() if file.is_file() else ""
        free = min(free, int(limit)) if limit.isdigit() else free
    return free / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def shares_of_memory() -> tuple[float, ...]:
    """The shares of `free_memory` that a run may fill, the one to be tried first.

    Without a GPU other programs need memory too, and who goes beyond it is killed without a word;
    so half of it is filled where a run fits into that.
    """
    import torch

    return (0.9,) if torch.cuda.is_available() else (0.5, 0.9)


def first_to_say(text: str) -> bool:
    """Whether no other process of this launch has printed `text` yet; true if that is unknown.

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
    results: list[Any] = [None] * len(items)
    for index, share in enumerate(shares):
        results[index :: ranks.size] = share
    return results


_DONE, _READS, _LEARNS = range(3)
"""What a process does next: no pass, one without a gradient, one there and back."""

_PASSES = "sparring_passes"
"""The attribute of a sharded module that keeps its passes in step."""


def sharding_requested(ranks: Ranks) -> bool:
    """Whether accelerate was told to shard; UsageError for what cannot be had here."""
    if ranks.size == 1:
        return False
    from accelerate.utils import FullyShardedDataParallelPlugin, str_to_bool
    from torch.distributed import fsdp

    if not str_to_bool(os.environ.get("ACCELERATE_USE_FSDP", "false")):
        return False
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise UsageError(f"accelerate: fsdp_version is {version}; wanted 2 (--fsdp_version 2)")
    plugin = FullyShardedDataParallelPlugin()
    refused = {
        "fsdp_activation_checkpointing: set learner.optimizer.gradient_checkpointing=true "
        "instead": plugin.activation_checkpointing,
        "fsdp_reshard_after_forward: set it to true, or launch with --multi_gpu: every process "
        "would hold the whole model": not plugin.reshard_after_forward,
        "fsdp_offload_params: launch more processes instead": isinstance(
            plugin.cpu_offload, fsdp.CPUOffloadPolicy
        ),
    }
    for reason, applies in refused.items():
        if applies:
            raise UsageError(f"accelerate: {reason}")
    return True


def shard(owned: Iterable[Weights], ranks: Ranks) -> None:
    """Keep a share of the layers under these adapters, on the CPU until now; called by all.

    What trains, the embeddings and the head stay whole on every process. A layer is gathered
    whenever it runs, so from here on all processes must run the same passes: `in_step`.
    """
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from transformers.modeling_layers import GradientCheckpointingLayer

    owned = list(owned)
    model = owned[0].model
    body = _body(model)
    layers = [m for m in body.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise UsageError(
            f"accelerate: {type(body).__name__} has no layers to shard; launch with --multi_gpu, "
            "where every process holds the whole model"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(device, (ranks.size,))
    trained = {p for weights in owned for p in weights.parameters.values()}
    for layer in reversed(layers):  # one inside another comes before it
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
    # A root without parameters of its own: its layers then prefetch each other.
    fully_shard(body, mesh=mesh, ignored_params=set(body.parameters()))
    model.to(device)
    passes = _Passes(body, ranks)
    setattr(body, _PASSES, passes)
    body.register_forward_pre_hook(passes.announce, prepend=True)
    # FSDP keeps the tensors that it gathers into: made in inference mode, they could not be
    # learned through later.
    passes.idle(_READS)


def in_step(model: Any) -> AbstractContextManager[None]:
    """Within the block the processes may run different numbers of passes through `model`.

    Whoever is done runs along with the others at its end. A pass with gradients on must be
    followed by its way back. Without shards nobody waits.
    """
    passes: _Passes | None = getattr(_body(model), _PASSES, None)
    return passes.together() if passes else nullcontext()


def sharded(model: Any) -> bool:
    """Whether the processes hold this model's layers in shares."""
    return hasattr(_body(model), _PASSES)


@dataclass(eq=False)
class _Passes:
    """Keeps the passes of all processes through `body` in step, while they are `counted`."""

    body: Any
    ranks: Ranks
    counted: bool = False

    def announce(self, *_: object) -> None:
        """Before a pass: whoever is done hears that there is one more."""
        import torch

        if self.counted:
            self._agree(_LEARNS if torch.is_grad_enabled() else _READS)

    @contextmanager
    def together(self) -> Iterator[None]:
        self.counted = True
        try:
            yield
        finally:
            self.counted = False
        while coming := self._agree(_DONE):
            self.idle(coming)

    def idle(self, kind: int) -> None:
        """A pass over one token, from which nothing is learned."""
        import torch

        ids_11 = torch.zeros(1, 1, dtype=torch.long, device=self.body.device)
        with torch.set_grad_enabled(kind == _LEARNS):
            hidden_11D = self.body(input_ids=ids_11, use_cache=False).last_hidden_state
            if kind == _LEARNS:
                hidden_11D.backward(torch.zeros_like(hidden_11D))

    def _agree(self, kind: int) -> int:
        """What those who are not done do next; `_DONE` when all are."""
        kinds = set(self.ranks.gather(kind)) - {_DONE}
        if len(kinds) > 1:
            raise SparringError("sharded processes are out of step: one learns, another only reads")
        return max(kinds, default=_DONE)


def _body(model: Any) -> Any:
    """What holds the layers, below the head; adapters in place."""
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    return whole.base_model
