"""A model's sizes without its weights: counted on the meta device, where tensors hold no data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.types import UsageError

_LLAMA = "config.json of meta-llama/Llama-3.1-70B"
_QWEN = "config.json of Qwen/Qwen2.5-{}-Instruct; arXiv:2412.15115, table 1"


def _qwen2(hidden: int, layers: int, heads: int, kv: int, inner: int, vocabulary: int) -> Any:
    return {
        "model_type": "qwen2",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
    }


KNOWN: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "1.5B": (
        _qwen2(1536, 28, 12, 2, 8960, 151_936) | {"tie_word_embeddings": True},
        _QWEN.format("1.5B"),
    ),
    "7B": (_qwen2(3584, 28, 28, 4, 18_944, 152_064), _QWEN.format("7B")),
    "14B": (_qwen2(5120, 48, 40, 8, 13_824, 152_064), _QWEN.format("14B")),
    "70B": (_qwen2(8192, 80, 64, 8, 28_672, 128_256) | {"model_type": "llama"}, _LLAMA),
}
"""Published shapes by the name people give them, and where they are published."""
PROBE = 128
"""Tokens of the forward that is counted; what autograd keeps grows by the token."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model and of what is trained of it. Sizes in bytes, per token where said so.

    `read` are the parameters that a token is multiplied by (all but the input embedding, which is
    looked up). `attention` is heads x width of a head, summed over layers. `kept` is what autograd
    keeps of a token until the backward pass, of which `entering` are the layers' inputs alone and
    `layers` is how many layers share the rest. `cache` is a token's keys and values.
    """

    parameters: int
    read: int
    weights: int
    trained: int
    trained_bytes: int
    kept: int
    entering: int
    cache: int
    attention: int
    layers: int
    vocabulary: int
    item: int
    """Bytes of one number of the base."""


def shape_of(
    what: str,
    dtype: str = "auto",
    lora: Mapping[str, Any] | None = None,
    revision: str | None = None,
) -> Shape:
    """The sizes of a name in `KNOWN`, of a model's folder or of a hub name; reads no weights.

    With `lora` (PEFT's names) an adapter is trained and the base is not. "auto" is what the config
    says, and bfloat16 where it says nothing.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = _config(what, revision)
    kind = config.dtype if dtype == "auto" else getattr(torch, dtype)
    kind = kind or torch.bfloat16
    _count_attention()
    with torch.device("meta"):
        make: Any = AutoModelForCausalLM.from_config
        model = make(config, dtype=kind, attn_implementation="sparring_counted")
    weights = sum(p.nbytes for p in model.parameters())
    parameters = sum(p.numel() for p in model.parameters())
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    table = 0 if tied else model.get_input_embeddings().weight.numel()
    told = config.get_text_config()
    if lora is not None:
        model = _with_lora(model, lora)
    trained = [p for p in model.parameters() if p.requires_grad]
    kept, cache = _run(model)
    width = getattr(told, "head_dim", None) or told.hidden_size // told.num_attention_heads
    return Shape(
        parameters=parameters,
        read=parameters - table,
        weights=weights,
        trained=sum(p.numel() for p in trained),
        trained_bytes=sum(p.nbytes for p in trained),
        kept=kept // PROBE,
        entering=told.num_hidden_layers * told.hidden_size * kind.itemsize,
        cache=cache // PROBE,
        attention=told.num_hidden_layers * told.num_attention_heads * width,
        layers=told.num_hidden_layers,
        vocabulary=told.vocab_size,
        item=kind.itemsize,
    )


def _config(what: str, revision: str | None) -> Any:
    from transformers import AutoConfig

    if what in KNOWN:
        told = dict(KNOWN[what][0])
        return AutoConfig.for_model(told.pop("model_type"), **told)
    local = what.startswith((".", "/", "~")) or what.count("/") != 1
    if local and not (Path(what).expanduser() / "config.json").is_file():
        raise UsageError(
            f"model_name_or_path: no config.json in {what} (wanted a model's folder, a hub name, "
            f"or --params {' | '.join(KNOWN)})"
        )
    try:
        return AutoConfig.from_pretrained(
            Path(what).expanduser() if local else what,
            revision=revision or "main",
            trust_remote_code=False,
        )
    except (OSError, ValueError) as error:
        first = str(error).strip().split("\n", 1)[0]
        raise UsageError(f"model_name_or_path: cannot read the config of {what}: {first}") from None


def _with_lora(model: Any, lora: Mapping[str, Any]) -> Any:
    """One adapter, in float32 on a narrower base, as PEFT makes it."""
    from peft import LoraConfig, get_peft_model

    told = {k: v for k, v in lora.items() if k != "revision"}
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **told), low_cpu_mem_usage=True)


def _run(model: Any) -> tuple[int, int]:
    """Bytes that autograd keeps of one forward of `PROBE` tokens, and bytes of its cache.

    Every storage is counted once, however many operations keep it; the model's own do not count.
    """
    import torch

    own = {p.untyped_storage()._cdata for p in (*model.parameters(), *model.buffers())}
    kept: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    ids = torch.zeros(1, PROBE, dtype=torch.long, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        said = model(input_ids=ids, use_cache=False, logits_to_keep=1)
    bytes_kept = sum(storage.nbytes() for storage in kept.values())
    del said
    with torch.no_grad():
        layers = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values.layers
    return bytes_kept, sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)


def _count_attention() -> None:
    """Attention that keeps what a fused kernel keeps and computes nothing.

    FlashAttention-2 (arXiv:2307.08691, algorithm 2) keeps queries, keys, values, its output and a
    float32 logsumexp for each row, and no scores; keys and values are repeated for grouped
    queries before it, as transformers does where a batch is padded.
    """
    import torch
    from transformers import AttentionInterface

    class Kept(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, query: Any, key: Any, value: Any) -> Any:
            out, total = torch.empty_like(query), query.new_empty(query.shape[:-1]).float()
            ctx.save_for_backward(query, key, value, out, total)
            return out

        @staticmethod
        def backward(ctx: Any, *grad: Any) -> Any:
            raise NotImplementedError("counted, never run")

    def attention(module: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
        groups = query.shape[1] // key.shape[1]
        key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
        out: Any = Kept.apply(query, key, value)  # type: ignore[no-untyped-call]
        return out.transpose(1, 2).contiguous(), None

    AttentionInterface.register("sparring_counted", attention)
