"""A player's weights, a whole model's or an adapter's on a base, and the AdamW that steps them."""

import copy
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import Parameter

from sparring.players.loading import load_model
from sparring.players.ranks import ALONE, Ranks
from sparring.players.trials import multiply_once
from sparring.types import Metrics, Player, SparringError, UsageError

Tensors = dict[str, Tensor]


class Weights:
    """The trainable part of `model` that is one player's own.

    `adapter` names a PEFT adapter; None means every parameter. `version` counts updates; `held`
    is true while other tensors sit here than the present ones.
    """

    def __init__(self, model: Any, adapter: str | None = None) -> None:
        multiply_once(model)
        self._model = model
        self.adapter = adapter
        self.version = 0
        self.held = False
        self.parameters: dict[str, Parameter] = {
            name: p
            for name, p in model.named_parameters()
            if not adapter or adapter in name.split(".")
        }
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)

    @property
    def model(self) -> Any:
        """The model with this player's weights switched on."""
        if self.adapter:
            self._model.set_adapter(self.adapter)
        return self._model

    def snapshot(self) -> Tensors:
        """A copy of the trainable tensors, by parameter name."""
        return {name: p.detach().clone() for name, p in self.parameters.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite the trainable tensors in place; names and shapes must match exactly."""
        _check_fit(tensors, self.parameters)
        for name, parameter in self.parameters.items():
            parameter.data.copy_(tensors[name])

    @contextmanager
    def holding(self, other: Mapping[str, Tensor] | Path) -> Iterator[None]:
        """Within the block these weights are `other`: tensors, such as those that KL is measured
        to, or the folder that `save` wrote them to.
        """
        present, held = _copies(self.parameters), self.held
        try:
            if isinstance(other, Path):
                self.read(other)
            else:
                self.load(other)
            self.held = True
            yield
        finally:
            self.load(present)
            self.held = held

    @contextmanager
    def merged(self) -> Iterator[Any]:
        """The model, within the block with this player's adapter inside its base's matrices.

        One product a layer instead of three. Only in float32 on a CPU: bfloat16 would round the
        adapter away, and elsewhere a second copy of the base costs more than it gains. The base's
        own tensors are put back as they were; taking the adapter out again would not give them.
        """
        model, before = self.model, []
        for layer in _mergeable(model, self.adapter) if self.adapter else ():
            weight = layer.base_layer.weight
            before.append((layer, weight, weight.data))
            with torch.no_grad():
                weight.data = weight.data + layer.get_delta_weight(self.adapter)
            layer.merged_adapters.append(self.adapter)
        try:
            yield model
        finally:
            for layer, weight, data in before:
                layer.merged_adapters.clear()
                weight.data = data

    def save(self, folder: Path) -> None:
        """Write `folder/` as PEFT or transformers would read it (safetensors)."""
        if self.adapter:
            folder.mkdir(parents=True, exist_ok=True)
            # PEFT appends the adapter's name to the path itself.
            with TemporaryDirectory(dir=folder) as temporary:
                self.model.save_pretrained(temporary, selected_adapters=[self.adapter])
                written = Path(temporary) / self.adapter
                _sort_modules(written / "adapter_config.json")
                for file in written.iterdir():
                    file.replace(folder / file.name)
        else:
            self.model.save_pretrained(folder)

    def read(self, folder: Path) -> None:
        """Load what `save` wrote."""
        if self.adapter:
            from peft import get_peft_model_state_dict, set_peft_model_state_dict

            tensors = load_file(folder / "adapter_model.safetensors")
            _check_fit(tensors, get_peft_model_state_dict(self._model, adapter_name=self.adapter))
            set_peft_model_state_dict(self._model, tensors, adapter_name=self.adapter)
        else:
            tensors = {}
            for file in sorted(folder.glob("*.safetensors")):  # several where the model is sharded
                tensors |= load_file(file)
            if not self.parameters.keys() <= tensors.keys():
                # Mixtures of experts and others are stored under other names than they have in
                # memory; transformers alone can translate them.
                tensors = dict(load_model(str(folder), device="cpu").named_parameters())
            self.load({name: tensors[name] for name in self.parameters if name in tensors})


def _copies(tensors: Mapping[str, Tensor]) -> Tensors:
    """Copies on the CPU, where they cost the device nothing."""
    return {name: t.detach().to("cpu", copy=True) for name, t in tensors.items()}


def _mergeable(model: Any, adapter: str) -> list[Any]:
    """The LoRA layers with a matrix of their own to which the adapter can be added."""
    from peft.tuners.lora import Linear

    # A matrix that is tied, as a head often is to the embedding, is another layer's too.
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    return [
        layer
        for layer in model.modules()
        if isinstance(layer, Linear)
        and adapter in layer.lora_A
        and type(layer.base_layer.weight) is Parameter  # a share of a matrix takes nothing in
        and uses[id(layer.base_layer.weight)] == 1
        and not layer.lora_variant.get(adapter)
        and layer.base_layer.weight.dtype in (torch.float32, torch.float64)
        and layer.base_layer.weight.device.type == "cpu"
    ]


def _sort_modules(path: Path) -> None:
    """PEFT writes its sets of modules in the order of the process's hash seed."""
    config = json.loads(path.read_text("utf-8"))
    for key in ("target_modules", "exclude_modules"):
        if isinstance(config.get(key), list):
            config[key] = sorted(config[key])
    path.write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def _check_fit(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """ValueError unless names and shapes are the same: copying would broadcast, PEFT would skip."""
    actual, shapes = ({n: tuple(t.shape) for n, t in each.items()} for each in (tensors, expected))
    differ = sorted({name for name, _ in actual.items() ^ shapes.items()})
    if differ:
        first = differ[0]
        raise ValueError(
            f"weights differ in {len(differ)} tensors, such as {first}: "
            f"got {actual.get(first)}, wanted {shapes.get(first)}"
        )


_OWN = ("r", "lora_alpha", "lora_dropout")


def adapters(
    base: Any, lora: Mapping[Player, Mapping[str, Any]], torch_seed: int
) -> dict[Player, Weights]:
    """One frozen base with a LoRA adapter for each player, initialised from `torch_seed`.

    The adapters may differ in rank, scale and dropout; they sit on the same layers.
    """
    from peft import LoraConfig, get_peft_model

    first, second = Player
    differ = [k for k in lora[first] if lora[first][k] != lora[second].get(k) and k not in _OWN]
    if differ:
        raise UsageError(
            f"attacker.lora and defender.lora: {', '.join(differ)} must be the same for both, "
            "because the adapters share one base"
        )
    with torch.random.fork_rng():
        torch.manual_seed(torch_seed)
        config = LoraConfig(task_type="CAUSAL_LM", **lora[first])
        model = get_peft_model(base, config, adapter_name=first.value)
        # PEFT has resolved its patterns in the config. A fresh one would look for "all-linear"
        # and for tied layers among the first adapter's own.
        other = copy.deepcopy(config)
        for name in _OWN:
            setattr(other, name, lora[second].get(name, getattr(other, name)))
        model.add_adapter(second.value, other)
    model.eval()  # PEFT makes its layers in training mode: players would sample under dropout
    return {player: Weights(model, player.value) for player in Player}


_WIDE = "float32"
"""The name of a weight's float32 copy beside its moments."""


@dataclass(frozen=True, slots=True)
class LearningRate:
    """The learning rate over optimizer steps; `total` is needed for cosine decay."""

    peak: float
    kind: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = 0
    total: int = 0

    def at(self, step: int) -> float:
        """The rate of the 0-based `step`; cosine ends at a tenth of the peak."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if self.kind == "constant":
            return self.peak
        done = (step - self.warmup_steps) / max(1, self.total - self.warmup_steps)
        return self.peak * (0.55 + 0.45 * math.cos(math.pi * min(1.0, done)))


class Optimizer:
    """Clips, checks and applies one gradient at a time.

    Weights of less than 32 bits are stepped in a float32 copy and rounded from it: a step of 1e-5
    is below the spacing of bfloat16 around 0.02 (6e-5), so without the copy they would stand still.
    """

    def __init__(
        self,
        weights: Weights,
        schedule: LearningRate,
        betas: tuple[float, float] = (0.9, 0.95),
        max_grad_norm: float = 1.0,
        ranks: Ranks = ALONE,
    ) -> None:
        self.weights, self.schedule, self.max_grad_norm = weights, schedule, max_grad_norm
        self.ranks = ranks
        self._copies = {
            name: Parameter(p.detach().float())
            for name, p in weights.parameters.items()
            if p.dtype.itemsize < 4
        }
        self._stepped = weights.parameters | self._copies
        self._adam = torch.optim.AdamW(
            list(self._stepped.values()), lr=schedule.peak, betas=betas, weight_decay=0.0
        )
        self.steps = 0
        self.skipped = 0

    def step(self) -> Metrics:
        """Apply the accumulated gradient; returns the rate and the norm before clipping.

        A gradient that is not finite is thrown away and counted, and the only metric says so;
        three in a row stop the run.
        """
        parameters = self.weights.parameters
        if self.ranks.size > 1:  # each has the gradient of its share of the batch
            for p in parameters.values():
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            self.ranks.add([p.grad for p in parameters.values() if p.grad is not None])
        norm = float(torch.nn.utils.clip_grad_norm_(parameters.values(), self.max_grad_norm))
        metrics: Metrics = {"update_skipped": 1.0}
        if math.isfinite(norm):
            metrics = {"learning_rate": self.learning_rate, "grad_norm": norm}
            self._adam.param_groups[0]["lr"] = self.learning_rate
            for name, wide in self._copies.items():
                p = parameters[name]
                wide.grad = None if p.grad is None else p.grad.float()
                # A copy whose weight was loaded meanwhile begins from that.
                wide.data = torch.where(wide.data.to(p.dtype) == p.data, wide.data, p.data.float())
            self._adam.step()
            for name, wide in self._copies.items():
                parameters[name].data.copy_(wide.data)
            self.steps += 1
            self.weights.version += 1
            self.skipped = 0
        else:
            self.skipped += 1
        for p in (*parameters.values(), *self._copies.values()):
            p.grad = None
        if self.skipped == 3:
            raise SparringError(
                "three gradients in a row were not finite; the last checkpoint is good: lower "
                "learner.learning_rate, or look at the rewards of the last rounds"
            )
        return metrics

    def restart(self) -> None:
        """Forget the moments, since other weights were loaded: they say nothing about these."""
        self._adam.state.clear()
        self.weights.version += 1

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""
        return self.schedule.at(self.steps)

    def tensors(self) -> dict[str, Tensor]:
        """The moments, as `{parameter}/{moment}`, and float32 copies, for safetensors."""
        tensors: dict[str, Tensor] = {
            f"{name}/{key}": value
            for name, p in self._stepped.items()
            for key, value in self._adam.state.get(p, {}).items()
        }
        tensors |= {f"{name}/{_WIDE}": wide for name, wide in self._copies.items()}
        return _copies(tensors)

    def counters(self) -> dict[str, int]:
        """Steps, skipped gradients in a row and the weights' version, for JSON."""
        return {"steps": self.steps, "skipped": self.skipped, "version": self.weights.version}

    def load(self, tensors: Mapping[str, Tensor], counters: Mapping[str, int]) -> None:
        """Take up exactly where `tensors()` and `counters()` were taken."""
        self._adam.state.clear()
        for path, tensor in tensors.items():
            name, key = path.rsplit("/", 1)
            parameter = self._stepped[name]
            if key == _WIDE:
                parameter.data.copy_(tensor)
                continue
            # AdamW counts its steps on the CPU and keeps its moments beside the parameter.
            device = tensor.device if key == "step" else parameter.device
            self._adam.state[parameter][key] = tensor.detach().clone().to(device)
        self.steps, self.skipped = counters["steps"], counters["skipped"]
        self.weights.version = counters["version"]
