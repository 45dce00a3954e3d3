"""A frozen base whose layers the processes of a run hold in shares: FSDP2, as accelerate says."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from sparring.players.ranks import Ranks
from sparring.players.weights import Weights
from sparring.types import SparringError, UsageError

_DONE, _READS, _LEARNS = range(3)
"""What a process does next: no pass, one without a gradient, one there and back."""

_PASSES = "sparring_passes"
"""The attribute of a sharded module that keeps its passes in step."""


def wanted(ranks: Ranks) -> bool:
    """Whether accelerate was told to shard; UsageError for what cannot be had here."""
    if ranks.size == 1:
        return False
    from accelerate.utils import FullyShardedDataParallelPlugin, str_to_bool

    if not str_to_bool(os.environ.get("ACCELERATE_USE_FSDP", "false")):
        return False
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise UsageError(f"accelerate: fsdp_version is {version}; wanted 2 (--fsdp_version 2)")
    for why, so in _refused(FullyShardedDataParallelPlugin()):
        if so:
            raise UsageError(f"accelerate: {why}")
    return True


def _refused(told: Any) -> Iterator[tuple[str, bool]]:
    """What to do instead of what `told` asks, and whether it does."""
    from torch.distributed import fsdp

    recompute = "set learner.optimizer.gradient_checkpointing=true"
    yield f"fsdp_activation_checkpointing: {recompute} instead", told.activation_checkpointing
    whole = "set it to true, or launch with --multi_gpu: every process would hold the whole model"
    yield f"fsdp_reshard_after_forward: {whole}", not told.reshard_after_forward
    offloads = isinstance(told.cpu_offload, fsdp.CPUOffloadPolicy)
    yield "fsdp_offload_params: launch more processes instead", offloads


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

    def _agree(self, mine: int) -> int:
        """What those who are not done do next; `_DONE` when all are."""
        kinds = set(self.ranks.gather(mine)) - {_DONE}
        if len(kinds) > 1:
            raise SparringError("sharded processes are out of step: one learns, another only reads")
        return max(kinds, default=_DONE)


def _body(model: Any) -> Any:
    """What holds the layers, below the head; adapters in place."""
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    return whole.base_model
