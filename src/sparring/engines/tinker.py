"""Training services with LoRA clients, and one that speaks the Tinker API."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import httpx2
import torch
from safetensors.torch import load as load_tensors

from sparring.engines.engine import Decoding, Drawn, SeededPrompt
from sparring.players.grpo import clipped_surrogate
from sparring.transport.client import get
from sparring.types import SparringError, UsageError


@dataclass(frozen=True, slots=True)
class Datum:
    """One completion to learn from, with the log-probabilities it was sampled with (nats).

    `advantage` is every token's; all that a loss is divided by is already in it.
    """

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    advantage: float


@dataclass(frozen=True, slots=True)
class Passed:
    """The result of a pass over data: each datum's loss, shape [B], and the log-probabilities of
    its tokens under the weights as they were (nats), shape [B][T]."""

    losses: tuple[float, ...]
    logprobs: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Adam:
    """One step of AdamW without weight decay; `eps` is torch's default."""

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8


class LoraClient(Protocol):
    """One role's adapter, which lives on the service together with its optimizer's moments."""

    @property
    def version(self) -> int:
        """How many steps the adapter has seen."""
        ...

    def sample(self, prompts: Sequence[SeededPrompt], how: Decoding) -> list[Drawn]:
        """One completion for each prompt, in order, from the adapter as it is now."""
        ...

    def forward_backward(self, data: Sequence[Datum], epsilon: tuple[float, float]) -> Passed:
        """Add the gradient of the sum over data and tokens of −min(ρA, clip(ρ, 1 − ε, 1 + ε)A).

        Once before each `optim_step`: a service may divide by how many data it has seen.
        """
        ...

    def optim_step(self, adam: Adam) -> float | None:
        """Apply the gradient; returns its norm, if the service does."""
        ...

    def save(self, name: str) -> str:
        """Save adapter and moments under a new name; returns the path that `load` takes."""
        ...

    def load(self, path: str, version: int) -> None:
        """Go back to what `save` wrote after `version` steps."""
        ...


class Service(Protocol):
    """Holds a base model and trains any number of adapters on it."""

    def create_role(self, rank: int, seed: int) -> LoraClient:
        """A fresh adapter, which changes nothing yet."""
        ...


Scale = Callable[[int, int], float]
"""(data of the pass, positions of this datum) → what its advantages are multiplied with."""
REDUCTIONS: Mapping[str, Scale] = {
    "sum": lambda data, positions: 1.0,
    "mean": lambda data, positions: float(data * positions),
}
"""How a service adds up its token losses. `sum`: Tinker's contract
(https://tinker-docs.thinkingmachines.ai/losses), which SkyRL's Ray backends keep. `mean`: over the
positions of each datum, prompt and all, and then over data, as SkyRL 0.3's JAX backend does."""
_SEEDS = 2**31
"""JAX takes no wider seed."""
_LARGEST_ARCHIVE = 4 * 2**30
"""Bytes of a fetched adapter."""
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(eq=False)
class TinkerService:
    """A `Service` behind a URL. `model` is what it calls the base; `timeout` in seconds;
    `allow_insecure` permits plain http to another machine.

    UsageError if nobody answers there, or it has another model. The `tinker` package reports what
    happens in it to the same URL (TINKER_TELEMETRY=0 in the environment stops that).
    """

    base_url: str
    model: str
    reduction: str = "sum"
    api_key: str = field(default="tml-none", repr=False)
    timeout: float = 10.0
    allow_insecure: bool = False

    def __post_init__(self) -> None:
        if self.reduction not in REDUCTIONS:
            raise UsageError(f"reduction: got {self.reduction}, wanted {' or '.join(REDUCTIONS)}")
        if find_spec("tinker") is None:
            raise UsageError("tinker is not installed here: pip install 'sparring[tinker]'")
        self.base_url = self.base_url.rstrip("/")

    @cached_property
    def client(self) -> Any:
        """The package's own client, which would wait for minutes where nobody answers."""
        import tinker

        health = f"{self.base_url}/api/v1/healthz"
        try:
            response = get(health, "base_url", self.allow_insecure, self.timeout)
        except SparringError as error:
            raise UsageError(f"nobody answers at {self.base_url}: {error}") from error
        if response.status_code != httpx2.codes.OK:
            code = response.status_code
            raise UsageError(f"base_url: {health} says {code}; no Tinker service?")
        client = tinker.ServiceClient(base_url=self.base_url, api_key=self.api_key)
        models = [m.model_name for m in client.get_server_capabilities().supported_models]
        if self.model not in models:
            raise UsageError(f"model: {self.base_url} has no {self.model}; it has: {models}")
        return client

    def create_role(self, rank: int, seed: int) -> TinkerClient:
        # Its head stays as it is: SkyRL never trains one.
        training = _result(
            "create_lora_training_client",
            lambda: self.client.create_lora_training_client(
                base_model=self.model, rank=rank, seed=seed % _SEEDS, train_unembed=False
            ),
        )
        scale = REDUCTIONS[self.reduction]
        return TinkerClient(training, self.client, scale, self.allow_insecure)


@dataclass(eq=False)
class TinkerClient:
    """A `LoraClient`. `training` and `service` are the package's clients.

    Only the newest version is ever sampled from: SkyRL's JAX backend writes an older one over the
    weights that are being trained.
    """

    training: Any
    service: Any
    scale: Scale
    allow_insecure: bool = False
    version: int = 0
    _sampler: Any = None
    _fetched: int = 0

    def sample(self, prompts: Sequence[SeededPrompt], how: Decoding) -> list[Drawn]:
        from tinker import types

        if self._sampler is None:
            save = self.training.save_weights_and_get_sampling_client
            self._sampler = _result("save_weights_for_sampler", save)
        futures = [
            self._sampler.sample(
                prompt=types.ModelInput.from_ints(list(prompt.prompt_ids)),
                num_samples=1,
                sampling_params=types.SamplingParams(
                    max_tokens=how.max_completion_length,
                    seed=prompt.seed % _SEEDS,
                    stop=sorted(how.stop_ids),
                    temperature=how.temperature,
                ),
            )
            for prompt in prompts
        ]
        return [_drawn(_result("sample", future.result).sequences[0], how) for future in futures]

    def forward_backward(self, data: Sequence[Datum], epsilon: tuple[float, float]) -> Passed:
        scales = [self.scale(len(data), _positions(datum)) for datum in data]
        scaled = [_datum(datum, scale) for datum, scale in zip(data, scales, strict=True)]
        clip = {"clip_low_threshold": 1 - epsilon[0], "clip_high_threshold": 1 + epsilon[1]}
        future = self.training.forward_backward(scaled, "ppo", clip)
        outputs = _result("forward_backward", future.result).loss_fn_outputs
        losses, logprobs = [], []
        for datum, scale, output in zip(data, scales, outputs, strict=True):
            own = [float(p) for p in output["logprobs"].data[-len(datum.token_ids) :]]
            logprobs.append(tuple(own))
            each = output.get("elementwise_loss")  # SkyRL's; Tinker's own tells log-probabilities
            loss = sum(each.data) / scale if each else _loss(own, datum, epsilon)
            losses.append(float(loss))
        return Passed(tuple(losses), tuple(logprobs))

    def optim_step(self, adam: Adam) -> float | None:
        from tinker import types

        step = self.training.optim_step(types.AdamParams(**asdict(adam)))
        metrics = _result("optim_step", step.result).metrics or {}
        self.version += 1
        self._sampler = None
        return next((float(v) for k, v in metrics.items() if "grad_norm" in k), None)

    def save(self, name: str) -> str:
        return str(_result("save_state", self.training.save_state(name).result).path)

    def load(self, path: str, version: int) -> None:
        _result("load_state", self.training.load_state(path).result)
        self.version = version
        self._sampler = None

    def fetch(self, folder: Path) -> None:
        """Write the adapter as it is now to `folder/`, as PEFT reads it."""
        self._fetched += 1
        name = f"fetched-{self.version}-{self._fetched}"
        saved = self.training.save_weights_for_sampler(name)
        _result("save_weights_for_sampler", saved.result)
        archive = self.service.create_rest_client().get_checkpoint_archive_url
        url = _result("archive", archive(self.training.model_id, name).result).url
        response = get(url, "base_url", self.allow_insecure, 600.0, _LARGEST_ARCHIVE)
        if response.status_code != httpx2.codes.OK:
            code = response.status_code
            raise SparringError(f"the Tinker service's archive of {name} says {code}")
        unpacked(response.content, folder)


def unpacked(archive: bytes, folder: Path) -> None:
    """The adapter in a checkpoint's tar; SparringError if one of PEFT's two files is not there.

    SkyRL leaves `target_modules` to PEFT's guess, which is not what it trained: the tensors' names
    tell them.
    """
    files = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            name, content = Path(member.name).name, tar.extractfile(member)
            if name in _ADAPTER and content:
                files[name] = content.read()
    missing = [name for name in _ADAPTER if name not in files]
    if missing:
        raise SparringError(f"the service's adapter lacks {' and '.join(missing)}")
    config = json.loads(files[_ADAPTER[0]])
    names = load_tensors(files[_ADAPTER[1]])
    config["target_modules"] = sorted({n.split(".lora_")[0].rsplit(".", 1)[-1] for n in names})
    config["task_type"] = "CAUSAL_LM"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _ADAPTER[0]).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    (folder / _ADAPTER[1]).write_bytes(files[_ADAPTER[1]])


def _result(what: str, call: Callable[[], Any]) -> Any:
    """The package tries again by itself; what it gives up on ends the round.

    A refusal that comes with a result it raises as a ValueError.
    """
    import tinker

    try:
        return call()
    except (tinker.TinkerError, ValueError) as error:
        raise SparringError(f"the Tinker service failed in {what}: {error}") from error


def _positions(datum: Datum) -> int:
    """Positions that have a next token."""
    return len(datum.prompt_ids) + len(datum.token_ids) - 1


def _datum(datum: Datum, scale: float) -> Any:
    """Position i of the input has the token, log-probability and advantage of i + 1.

    The prompt's positions have no advantage and so no loss.
    """
    from tinker import types

    ids = [*datum.prompt_ids, *datum.token_ids]
    before = [0.0] * (len(datum.prompt_ids) - 1)
    return types.Datum(
        model_input=types.ModelInput.from_ints(ids[:-1]),
        loss_fn_inputs={
            "target_tokens": ids[1:],
            "logprobs": [*before, *datum.logprobs],
            "advantages": [*before, *[datum.advantage * scale] * len(datum.token_ids)],
        },
    )


def _loss(logprobs: Sequence[float], datum: Datum, epsilon: tuple[float, float]) -> float:
    """The clipped surrogate, summed over the tokens of one datum."""
    logp_1T, old_1T = torch.tensor([[logprobs], [datum.logprobs]], dtype=torch.float64)
    advantage = torch.tensor([datum.advantage], dtype=torch.float64)
    return clipped_surrogate(logp_1T, old_1T, advantage, epsilon).sum().item()


def _drawn(sequence: Any, how: Decoding) -> Drawn:
    """What the service drew; UsageError where it is not what was requested."""
    drawn = Drawn.checked("the Tinker service", sequence.tokens, list(sequence.logprobs or ()), how)
    if sequence.stop_reason == "stop" and drawn.token_ids[-1] not in how.stop_ids:
        raise UsageError(
            "the Tinker service leaves out the token that ends a reply, so nobody could learn it"
        )
    return drawn
