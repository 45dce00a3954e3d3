"""What stands in for the `tinker` package: its names and shapes as of 0.3.0, over a tiny model.

A service adds up its losses as Tinker's contract says (`sum`) or as SkyRL 0.3's JAX backend does
(`mean`), on every position it is sent, the prompt's too.
"""

import copy
import io
import json
import tarfile
from concurrent.futures import Future
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import torch
from safetensors.torch import save


class TinkerError(Exception):
    pass


def done(value):
    future = Future()
    if isinstance(value, Exception):
        future.set_exception(value)
    else:
        future.set_result(value)
    return future


class ModelInput:
    @staticmethod
    def from_ints(ids):
        return list(ids)


def record(**fields):
    return SimpleNamespace(**fields)


class Training:
    """One LoRA client of the service."""

    model_id = "model_17"

    def __init__(self, service):
        self.service = service
        self.model = copy.deepcopy(service.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), weight_decay=0.0)
        self.saved, self.samplers, self.requests = {}, 0, []

    def forward_backward(self, data, loss_fn, loss_fn_config):
        assert loss_fn == "ppo"
        if self.service.broken:
            return done(self.service.broken)
        low, high = (loss_fn_config[f"clip_{side}_threshold"] for side in ("low", "high"))
        outputs, total = [], 0.0
        for datum in data:
            inputs = datum.loss_fn_inputs
            logits_TV = self.model(torch.tensor([datum.model_input])).logits[0]
            logp_T = logits_TV.log_softmax(-1)[range(len(logits_TV)), inputs["target_tokens"]]
            ratio_T = (logp_T - torch.tensor(inputs["logprobs"])).exp()
            advantage_T = torch.tensor(inputs["advantages"])
            loss_T = -torch.minimum(ratio_T * advantage_T, ratio_T.clamp(low, high) * advantage_T)
            mean = self.service.reduction == "mean"
            total = total + (loss_T.mean() / len(data) if mean else loss_T.sum())
            output = {"logprobs": record(data=logp_T.tolist())}
            if self.service.tells_losses:
                output["elementwise_loss"] = record(data=loss_T.tolist())
            outputs.append(output)
        total.backward()
        return done(record(loss_fn_outputs=outputs, metrics={}))

    def optim_step(self, adam):
        self.service.rates.append(adam.learning_rate)
        for group in self.optimizer.param_groups:
            group |= {"lr": adam.learning_rate, "betas": (adam.beta1, adam.beta2), "eps": adam.eps}
        self.optimizer.step()
        self.optimizer.zero_grad()
        return done(record(metrics={"skyrl.ai/grad_norm": 0.25}))

    def save_weights_and_get_sampling_client(self):
        self.samplers += 1
        return record(sample=self._sample)

    def _sample(self, prompt, num_samples, sampling_params):
        assert num_samples == 1
        self.requests.append((prompt, sampling_params))
        return done(record(sequences=[self.service.sequence(sampling_params)]))

    def save_state(self, name):
        self.saved[name] = copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict()))
        return done(record(path=f"tinker://{self.model_id}/weights/{name}"))

    def load_state(self, path):
        weights, moments = copy.deepcopy(self.saved[path.rsplit("/", 1)[-1]])
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict(moments)
        return done(record(path=None))


class Package(ModuleType):
    """`sys.modules["tinker"]`, and the one service there is."""

    TinkerError = TinkerError

    def __init__(self, model, reduction="sum", tells_losses=True):
        super().__init__("tinker")
        self.__spec__ = ModuleSpec("tinker", None)
        self.types = record(
            ModelInput=ModelInput, SamplingParams=record, Datum=record, AdamParams=record
        )
        self.model, self.reduction, self.tells_losses = model, reduction, tells_losses
        self.broken = None
        self.created, self.keys, self.rates = [], [], []
        self.sequence = lambda how: record(
            tokens=[11, 12, how.stop[0]], logprobs=[-0.5, -1.25, -2.0], stop_reason="stop"
        )

    def ServiceClient(self, base_url, api_key):  # noqa: N802
        self.keys.append((base_url, api_key))
        models = [record(model_name="dragon-1b")]
        return record(
            get_server_capabilities=lambda: record(supported_models=models),
            create_lora_training_client=self._create,
        )

    def _create(self, **settings):
        self.created.append(settings)
        return Training(self)


def archive(names=("q_proj", "up_proj"), leave_out=()):
    """A checkpoint as SkyRL packs it: no target_modules, members under `./`."""
    tensors = {
        f"base_model.model.model.layers.0.mlp.{name}.lora_{side}.weight": torch.full((2, 3), 0.75)
        for name in names
        for side in "AB"
    }
    files = {
        "adapter_config.json": json.dumps({"r": 2, "lora_alpha": 32.0, "target_modules": None}),
        "adapter_model.safetensors": save(tensors),
        "../outside.txt": "never written",
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            if name not in leave_out:
                raw = content.encode() if isinstance(content, str) else content
                member = tarfile.TarInfo(f"./{name}")
                member.size = len(raw)
                tar.addfile(member, io.BytesIO(raw))
    return packed.getvalue()
