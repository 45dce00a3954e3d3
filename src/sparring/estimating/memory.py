"""What fills a card: weights, adapters, optimizer, gradients, activations, logits, cache."""

from __future__ import annotations

from dataclasses import dataclass

from sparring.estimating.load import Load
from sparring.learners.heads import PIECE
from sparring.policies.shape import Shape

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one card, everything of the run on it."""

    weights: int
    adapters: int
    optimizer: int
    reference: int
    gradients: int
    activations: int
    logits: int
    cache: int

    @property
    def standing(self) -> int:
        """Held from the first round to the last."""
        return self.weights + self.adapters + self.optimizer + self.reference

    @property
    def peak(self) -> int:
        """An update and a decode batch follow each other; the larger one counts."""
        return self.standing + max(self.gradients + self.activations + self.logits, self.cache)


def memory(shape: Shape, load: Load) -> Memory:
    """The memory of a run with that shape and load."""
    return Memory(
        weights=load.models * shape.weights,
        adapters=load.learners * shape.trained_bytes if load.adapters else 0,
        optimizer=load.learners * optimizer_bytes(shape.trained, shape.trained_bytes),
        reference=load.learners * shape.trained_bytes if load.reference else 0,
        gradients=shape.trained_bytes,
        activations=activation_bytes(shape, load.micro_batch_tokens, load.checkpointing),
        logits=logit_bytes(shape, load.micro_batch_tokens),
        cache=cache_bytes(shape, load.batch_tokens),
    )


def optimizer_bytes(trained: int, trained_bytes: int) -> int:
    """AdamW's two moments in float32 (arXiv:1711.05101), and a float32 copy of narrower weights.

    8 bytes a trained float32 parameter, 12 a bfloat16 one.
    """
    narrow = trained_bytes < 4 * trained
    return trained * (12 if narrow else 8)


def activation_bytes(shape: Shape, tokens: int, checkpointing: bool) -> int:
    """What autograd keeps of a micro-batch.

    Counted for each token on the meta device (`policies.shape`): the formulas of
    arXiv:2205.05198, section 4.1, know neither gated products, nor grouped queries, nor adapters
    that keep a float32 copy of every input. With gradient checkpointing (ibid., section 5) every
    layer's input and one layer's rest.
    """
    if not checkpointing:
        return tokens * shape.kept
    return tokens * (shape.entering + (shape.kept - shape.entering) // shape.layers)


def logit_bytes(shape: Shape, tokens: int) -> int:
    """Logits of a piece: as the head writes them, in float32, and their gradient in both."""
    return min(PIECE, tokens * shape.vocabulary) * 2 * (shape.item + 4)


def cache_bytes(shape: Shape, tokens: int) -> int:
    """Keys and values: 2 x layers x key-value heads x head width x bytes, for each token held.

    arXiv:2211.05102, section 2; grouped queries arXiv:2305.13245.
    """
    return tokens * shape.cache
