"""Likeness by meaning: cosines of the mean hidden states of a Hugging Face encoder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sparring.diversity.similarity import Similarity
from sparring.types import UsageError

if TYPE_CHECKING:
    from torch import Tensor

_REMEMBERED = 4096


def embedded(model_name_or_path: str) -> Similarity:
    """Cosines of mean-pooled last hidden states, as Sentence-BERT's (arXiv:1908.10084).

    Texts longer than the model reads are cut. Each is embedded alone, so that its vector does not
    depend on its siblings, and remembered, because the reward and the metric ask for the same
    ones. Loads safetensors only and never remote code. UsageError if that cannot be done.
    """
    import torch

    tokenizer, model = _load(model_name_or_path)
    longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512))

    @lru_cache(_REMEMBERED)
    def vector(text: str) -> Tensor:
        ids = tokenizer(text, truncation=True, max_length=longest, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            hidden_TD = model(input_ids=ids.to(model.device)).last_hidden_state[0]
        mean_D = hidden_TD.float().mean(0).cpu()
        unit_D: Tensor = mean_D / mean_D.norm()
        return unit_D

    def similarity(texts: Sequence[str]) -> list[list[float]]:
        vector_ND = torch.stack([vector(text) for text in texts])
        cosine_NN: list[list[float]] = (vector_ND @ vector_ND.T).tolist()
        return cosine_NN

    return similarity


def _load(path: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModel, AutoTokenizer

    where = f"game.embedding_model: cannot load {path}"
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        model: Any = AutoModel.from_pretrained(path, trust_remote_code=False, use_safetensors=True)
    except (OSError, ValueError) as error:
        line = str(error).strip().split("\n", 1)[0]
        raise UsageError(f"{where}: {line}") from error
    if model.config.is_encoder_decoder:
        raise UsageError(f"{where}: it is an encoder with a decoder; wanted an encoder alone")
    return tokenizer, model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
