"""Counts a model's sizes on the meta device, where tensors hold no data, without its weights."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparring import packaged
from sparring.players.loading import load_config
from sparring.settings.config import RunConfig
from sparring.types import UsageError

TABLE = packaged.table("estimate/known.yaml")
KNOWN: Mapping[str, Mapping[str, Any]] = {
    name: row["config"] for name, row in TABLE["models"].items()
}
"""Configs of published models, by the name that people give them."""
PROBE = 128
"""Tokens in the forward pass that is counted; what autograd saves grows linearly with tokens."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model and of the part of it that is trained.

    `multiplied` counts the parameters that a token is multiplied by: all but the input embedding,
    which is looked up. `attention` is heads x head width, summed over layers. `saved`,
    `layer_inputs` and `cache` are bytes per token: what autograd saves for the backward pass, the
    part of that which is the layers' inputs, and keys and values. `itemsize` is the bytes of one
    number of the base.
    """

    parameters: int
    multiplied: int
    weights: int
    trained: int
    trained_bytes: int
    saved: int
    layer_inputs: int
    cache: int
    attention: int
    layers: int
    vocabulary: int
    itemsize: int


class UncountedError(UsageError):
    """A family whose forward pass cannot run without numbers, so that nothing can be counted."""


def shape_for(config: RunConfig, model: Any) -> Shape:
    """The shape of a run's defender: `model` is what `shape_of` takes."""
    lora = config.defender.lora.model_dump() if config.weights == "adapters" else None
    return shape_of(model, config.defender.dtype, lora, config.defender.revision)


def shape_of(
    model: Any,
    dtype: str = "auto",
    lora: Mapping[str, Any] | None = None,
    revision: str | None = None,
) -> Shape:
    """Count the sizes of a name in `KNOWN`, a folder, a hub name or a config; reads no weights.

    With `lora` (PEFT's names) an adapter is trained and the base is not. "auto" is the config's
    own dtype, and bfloat16 where the config has none. UncountedError for a model that does not run
    on the meta device.
    """
    import torch
    from transformers import AutoConfig

    if isinstance(model, str):
        known = KNOWN.get(model)
        config = AutoConfig.for_model(**known) if known else load_config(model, revision)
    else:
        config = copy.deepcopy(model)
    kind = (config.dtype if dtype == "auto" else getattr(torch, dtype)) or torch.bfloat16
    try:
        return _counted(config, kind, lora)
    except Exception as error:  # whatever a family's own code makes of tensors without numbers
        why = str(error).partition("\n")[0]
        raise UncountedError(f"{config.model_type} models cannot be counted: {why}") from error


def _counted(config: Any, kind: Any, lora: Mapping[str, Any] | None) -> Shape:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    _register_attention()
    with torch.device("meta"):
        from_config: Any = AutoModelForCausalLM.from_config
        network = from_config(config, dtype=kind, attn_implementation="sparring_counted")
    base = list(network.parameters())
    embedding = network.get_input_embeddings().weight
    tied = network.get_output_embeddings().weight is embedding
    parameters = sum(p.numel() for p in base)
    if lora is not None:  # as PEFT adds it: in float32 where the base is narrower
        adapter = LoraConfig(task_type="CAUSAL_LM", **lora)
        network = get_peft_model(network, adapter, low_cpu_mem_usage=True)
    trained = [p for p in network.parameters() if p.requires_grad]
    saved, cache = _forward_bytes(network)
    text = config.get_text_config()
    layers, heads = text.num_hidden_layers, text.num_attention_heads
    return Shape(
        parameters=parameters,
        multiplied=parameters - (0 if tied else embedding.numel()),
        weights=sum(p.nbytes for p in base),
        trained=sum(p.numel() for p in trained),
        trained_bytes=sum(p.nbytes for p in trained),
        saved=saved // PROBE,
        layer_inputs=layers * text.hidden_size * kind.itemsize,
        cache=cache // PROBE,
        attention=layers * heads * (getattr(text, "head_dim", None) or text.hidden_size // heads),
        layers=layers,
        vocabulary=text.vocab_size,
        itemsize=kind.itemsize,
    )


def _forward_bytes(network: Any) -> tuple[int, int]:
    """Bytes that autograd saves in one forward pass of `PROBE` tokens, and bytes of its KV cache.

    Every storage counts once, however many operations save it; parameters and buffers do not count.
    """
    import torch

    own = {p.untyped_storage()._cdata for p in (*network.parameters(), *network.buffers())}
    saved: dict[int, Any] = {}

    def save(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage
        return tensor

    ids = torch.zeros(1, PROBE, dtype=torch.long, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        output = network(input_ids=ids, use_cache=False, logits_to_keep=1)
    saved_bytes = sum(storage.nbytes() for storage in saved.values())
    del output  # the graph lives until the sum is taken
    with torch.no_grad():
        output = network(input_ids=ids, use_cache=True, logits_to_keep=1)
    layers = getattr(output.get("past_key_values"), "layers", ())
    growing = [layer for layer in layers if hasattr(layer, "keys")]  # a state does not grow
    return saved_bytes, sum(layer.keys.nbytes + layer.values.nbytes for layer in growing)


def _register_attention() -> None:
    """Register an attention that saves what a fused kernel saves and computes nothing.

    FlashAttention-2 (arXiv:2307.08691, algorithm 2) saves queries, keys, values, its output and a
    float32 logsumexp of each row, but no scores. Keys and values are repeated for grouped queries
    before it, as transformers does where a batch is padded.
    """
    import torch
    from transformers import AttentionInterface

    class Saving(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, query: Any, key: Any, value: Any) -> Any:
            output, logsumexp = torch.empty_like(query), query.new_empty(query.shape[:-1]).float()
            ctx.save_for_backward(query, key, value, output, logsumexp)
            return output

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            raise NotImplementedError("counted, never run")

    def attention(module: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
        groups = query.shape[1] // key.shape[1]
        key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
        output: Any = Saving.apply(query, key, value)  # type: ignore[no-untyped-call]
        return output.transpose(1, 2).contiguous(), None

    AttentionInterface.register("sparring_counted", attention)
