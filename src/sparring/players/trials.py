"""What a model is and can do: its kind, its parts, and trials of the ways in which it may run."""

import inspect
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

Head = Callable[[Tensor], Tensor]
"""Hidden states [N, D] to logits [N, V]."""

ATTENTION = frozenset({"full_attention", "sliding_attention"})
"""The kinds of layers whose whole past is the keys and values of a cache."""


def causal(model: Any) -> Any:
    """The language model inside a PEFT model, adapters in place; others as they are."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def multiply_once(model: Any) -> None:
    """Let a model's output layer get hidden states that lie one after the other in memory.

    transformers cuts the last positions out of every row. What is cut so, torch multiplies by a
    copy of the output layer for each row wherever that layer is frozen, as it is under adapters:
    10 GB for 176 prompts and a vocabulary of 49,152.
    """
    output = getattr(causal(model), "get_output_embeddings", lambda: None)()
    if output is not None and _joined not in output._forward_pre_hooks.values():
        output.register_forward_pre_hook(_joined)


def _joined(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0].contiguous(), *inputs[1:])


def kinds(model: Any) -> set[str]:
    """The kinds of this language model's layers, as transformers' caches call them."""
    from transformers.cache_utils import get_layer_types_and_kwargs

    return set(get_layer_types_and_kwargs(model.config.get_text_config())[0])


def attends(model: Any) -> bool:
    """Whether every layer of the model is attention over a cache, full or within a window."""
    config = model.config.get_text_config()
    plain = config._attn_implementation in ("sdpa", "eager") and not config.is_encoder_decoder
    return plain and kinds(model) <= ATTENTION


def logits_kept(model: Any, tokens: int) -> dict[str, int]:
    """The argument for logits of the last `tokens` alone, for models that take it."""
    takes = "logits_to_keep" in inspect.signature(causal(model).forward).parameters
    return {"logits_to_keep": tokens} if takes else {}


RUN = 2**25
"""Tokens that a further run costs on a CPU, × the hidden size squared: matrices of wide models are
all that a run costs there."""
LAUNCH = 256
"""Tokens that a run costs on an accelerator at least, since it reads all weights: an H200 computes
990e12 operations a second in bfloat16 and reads 4.8e12 bytes, which is 206 operations a byte."""


def price(model: Any) -> float:
    """Return the price of a further run of the model: the tokens that it must save to pay."""
    tokens: float = RUN / model.config.get_text_config().hidden_size ** 2
    return tokens if model.device.type == "cpu" else max(LAUNCH, tokens)


Row = tuple[tuple[int, ...], tuple[int, ...]]
"""Prompt ids and completion ids."""

_PROBE: tuple[Row, ...] = (
    ((4, 5, 6, 7, 8, 9), (1, 2, 3)),
    ((3, 2), (5,)),
    ((4, 5, 6, 7, 8, 9), (7, 6)),
)


def probe(model: Any) -> tuple[Row, ...]:
    """Return the batch of two prompts that a model is tried with, from the middle of its ids.

    Vocabularies begin or end with tokens that text never has, on which a model in bfloat16 may
    differ from itself by nats: SmolLM2's first ones do.
    """
    step = max(1, causal(model).config.get_text_config().vocab_size // 11)
    return tuple((_times(step, prompt), _times(step, reply)) for prompt, reply in _PROBE)


def _times(step: int, ids: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(step * i for i in ids)


Trial = Callable[[Any], tuple[Tensor, Tensor]]
"""Runs a model in some way; returns what that way computes and what a bare forward pass does."""

_TRIED: WeakKeyDictionary[Any, dict[Trial, str]] = WeakKeyDictionary()


def refusal(model: Any, trial: Trial) -> str:
    """Why the model cannot run in the way of `trial`; empty if it can.

    Families differ in their caches, masks and arguments, and new ones come every month: so no list
    of names says which ways are open to a model, but one trial of each on a few tokens does.
    """
    whole = causal(model)
    tried = _TRIED.setdefault(whole, {})
    if trial not in tried:
        training = whole.training
        whole.eval()
        try:
            with torch.no_grad(), torch.random.fork_rng():
                tried[trial] = _difference(whole, *trial(model))
        except Exception as error:  # whatever a family's own code makes of it
            tried[trial] = f"{type(error).__name__}: {error}".partition("\n")[0]
        finally:
            whole.train(training)
    return tried[trial]


def _difference(model: Any, actual: Tensor, expected: Tensor) -> str:
    """A sentence on two tensors that differ by more than the rounding of the model's dtype."""
    limit = 1e-3 if model.dtype.itemsize >= 4 else 0.15
    if not bool(expected.isfinite().all()):
        return (
            "its logits are not numbers (NaN): the weights are damaged, or their dtype is too small"
        )
    if actual.shape != expected.shape:
        return f"its logits have the shape {[*actual.shape]} instead of {[*expected.shape]}"
    apart, spread = (actual - expected).abs().mean().item(), expected.std().item()
    if apart <= limit * spread:
        return ""
    return f"how it is run changes its logits by {apart:.2g} where their spread is {spread:.2g}"


def bare_logits(model: Any, row: Row) -> Tensor:
    """Logits [T + 1, V] after the prompt and after each token of the completion, in float32.

    One row runs alone, without padding, mask, positions or cache.
    """
    ids = torch.tensor([[*row[0], *row[1]]], device=model.device)
    logits: Tensor = model(input_ids=ids, use_cache=False).logits[0, len(row[0]) - 1 :]
    return logits.float()


def head_of(model: Any) -> Head | None:
    """What turns the last hidden state of `causal(model).base_model` into logits.

    None where that is not the output embedding (and Gemma's cap) alone: some families scale
    their logits.
    """
    return None if refusal(model, _by_head) else _head(causal(model))


def _head(whole: Any) -> Head:
    output = whole.get_output_embeddings()
    cap = getattr(whole.config.get_text_config(), "final_logit_softcapping", None)
    return (lambda hidden: cap * (output(hidden) / cap).tanh()) if cap else output


def _by_head(model: Any) -> tuple[Tensor, Tensor]:
    whole = causal(model)
    outputs: list[Any] = []
    hook = whole.base_model.register_forward_hook(lambda *call: outputs.append(call[-1]))
    try:
        logits = bare_logits(whole, probe(whole)[0])
        hidden = outputs[0].last_hidden_state[0, -len(logits) :]
        return _head(whole)(hidden).float(), logits
    finally:
        hook.remove()
