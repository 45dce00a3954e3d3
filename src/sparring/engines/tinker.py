"""A training service behind a URL that speaks the Tinker API, and its LoRA clients."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx2
import torch
from safetensors.torch import load as load_tensors

from sparring.engines.engine import Decoding, Drawn, SeededPrompt
from sparring.engines.remote import Passed
from sparring.players.grpo import clipped_surrogate
from sparring.transport.client import get
from sparring.types import Sample, SparringError, UsageError

REDUCTIONS = ("sum", "mean")
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
    """A training service behind a URL. `model` is what it calls the base; `timeout` in seconds;
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
        """The package's client, made once a health check is answered: it would wait for minutes."""
        import tinker

        health = f"{self.base_url}/api/v1/healthz"
        try:
            response = get(health, "base_url", self.allow_insecure, self.timeout)
        except SparringError as error:
            raise UsageError(f"nobody answers at {self.base_url}: {error}") from error
        if (code := response.status_code) != httpx2.codes.OK:
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
        return TinkerClient(training, self)


@dataclass(eq=False)
class TinkerClient:
    """A `LoraClient` of `service`. `training` is the package's own client.

    Only the newest version is ever sampled from: SkyRL's JAX backend writes an older one over the
    weights that are being trained.
    """

    training: Any
    service: TinkerService
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

    def forward_backward(self, samples: Sequence[Sample], epsilon: tuple[float, float]) -> Passed:
        scales = [self._scale(sample, len(samples)) for sample in samples]
        data = [_datum(sample, scale) for sample, scale in zip(samples, scales, strict=True)]
        clip = {"clip_low_threshold": 1 - epsilon[0], "clip_high_threshold": 1 + epsilon[1]}
        future = self.training.forward_backward(data, "ppo", clip)
        outputs = _result("forward_backward", future.result).loss_fn_outputs
        losses, logprobs = [], []
        for sample, scale, output in zip(samples, scales, outputs, strict=True):
            own = output["logprobs"].data[-len(sample.completion.token_ids) :]
            logprobs.append(tuple(float(p) for p in own))
            # SkyRL gives the losses; Tinker's own service gives log-probabilities alone.
            by_token = output.get("elementwise_loss")
            loss = sum(by_token.data) / scale if by_token else _loss(logprobs[-1], sample, epsilon)
            losses.append(float(loss))
        return Passed(tuple(losses), tuple(logprobs))

    def _scale(self, sample: Sample, samples: int) -> float:
        """The factor that turns the service's mean into a sum: samples × this one's positions."""
        positions = len(sample.completion.prompt_ids) + len(sample.completion.token_ids) - 1
        return float(samples * positions) if self.service.reduction == "mean" else 1.0

    def optim_step(self, learning_rate: float, betas: tuple[float, float]) -> float | None:
        from tinker import types

        adam = types.AdamParams(
            learning_rate=learning_rate, beta1=betas[0], beta2=betas[1], eps=1e-8
        )
        future = self.training.optim_step(adam)
        metrics = _result("optim_step", future.result).metrics or {}
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
        archive = self.service.client.create_rest_client().get_checkpoint_archive_url
        url = _result("archive", archive(self.training.model_id, name).result).url
        response = get(url, "base_url", self.service.allow_insecure, 600.0, _LARGEST_ARCHIVE)
        if (code := response.status_code) != httpx2.codes.OK:
            raise SparringError(f"the Tinker service's archive of {name} says {code}")
        unpacked(response.content, folder)


def unpacked(archive: bytes, folder: Path) -> None:
    """The adapter in a checkpoint's tar; SparringError if one of PEFT's two files is not there.

    SkyRL leaves `target_modules` to PEFT's guess, which is not what it trained: the tensors' names
    tell them.
    """
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        content = {
            Path(member.name).name: file.read()
            for member in tar
            if Path(member.name).name in _ADAPTER and (file := tar.extractfile(member))
        }
    missing = [name for name in _ADAPTER if name not in content]
    if missing:
        raise SparringError(f"the service's adapter lacks {' and '.join(missing)}")
    config = json.loads(content[_ADAPTER[0]])
    names = load_tensors(content[_ADAPTER[1]])
    config["target_modules"] = sorted({n.split(".lora_")[0].rsplit(".", 1)[-1] for n in names})
    config["task_type"] = "CAUSAL_LM"
    folder.mkdir(parents=True, exist_ok=True)
    content[_ADAPTER[0]] = (json.dumps(config, indent=2) + "\n").encode()
    for name in _ADAPTER:
        (folder / name).write_bytes(content[name])


def _result(what: str, call: Callable[[], Any]) -> Any:
    """The package tries again by itself; what it gives up on ends the round.

    It raises ValueError for a refusal that comes with a result.
    """
    import tinker

    try:
        return call()
    except (tinker.TinkerError, ValueError) as error:
        raise SparringError(f"the Tinker service failed in {what}: {error}") from error


def _datum(sample: Sample, scale: float) -> Any:
    """Position i of the input has the token, log-probability and advantage of i + 1.

    The prompt's positions have no advantage and so no loss.
    """
    from tinker import types

    completion = sample.completion
    ids = [*completion.prompt_ids, *completion.token_ids]
    before = [0.0] * (len(completion.prompt_ids) - 1)
    return types.Datum(
        model_input=types.ModelInput.from_ints(ids[:-1]),
        loss_fn_inputs={
            "target_tokens": ids[1:],
            "logprobs": [*before, *completion.logprobs],
            "advantages": [*before, *[sample.advantage * scale] * len(completion.token_ids)],
        },
    )


def _loss(logprobs: Sequence[float], sample: Sample, epsilon: tuple[float, float]) -> float:
    """The clipped surrogate, summed over the tokens of one sample."""
    both = [[logprobs], [sample.completion.logprobs]]
    logp_1T, old_1T = torch.tensor(both, dtype=torch.float64)
    advantage = torch.tensor([sample.advantage], dtype=torch.float64)
    return clipped_surrogate(logp_1T, old_1T, advantage, epsilon).sum().item()


def _drawn(sequence: Any, how: Decoding) -> Drawn:
    """What the service drew; UsageError where it is not what was requested."""
    logprobs = list(sequence.logprobs or ())
    drawn = Drawn.checked("the Tinker service", sequence.tokens, logprobs, how)
    if sequence.stop_reason == "stop" and drawn.token_ids[-1] not in how.stop_ids:
        raise UsageError(
            "the Tinker service leaves out the token that ends a reply, so nobody could learn it"
        )
    return drawn
