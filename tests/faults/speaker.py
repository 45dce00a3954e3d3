"""A tiny chat model that replies with one text to any prompt and then ends its turn."""

import copy
import itertools
import re
from pathlib import Path

import torch
from tests.tiny import QWEN2, tokenizer
from tokenizers import AddedToken
from transformers import Qwen2Config, Qwen2ForCausalLM

_LOUD = 10.0
"""Makes the next token certain: its logit is 56 above every other."""


def save_speaker(
    folder: Path, text: str, template: str = QWEN2.template, thinking_is_special: bool = False
) -> Path:
    """Write the model and its tokenizer to `folder`.

    Each piece of `text` is one token, `<think>` and `</think>` among them. The network passes
    embeddings through unchanged: every token is followed by the first piece, each piece by the
    next one, and the last one by the token that ends a turn.
    """
    pieces = [piece for piece in re.split("(</?think>)", text) if piece]
    words = copy.deepcopy(tokenizer(QWEN2))
    words.chat_template = template
    for piece in pieces:
        special = thinking_is_special and piece in ("<think>", "</think>")
        words.add_tokens([AddedToken(piece, normalized=False, special=special)], special)
    end = words.convert_tokens_to_ids(QWEN2.turn_end)
    config = Qwen2Config(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=None,
    )
    model = Qwen2ForCausalLM(config)
    chain = [*words.convert_tokens_to_ids(pieces), end]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        embedding, head = model.get_input_embeddings().weight, model.lm_head.weight
        embedding[:, 0] = 1.0
        head[chain[0], 0] = _LOUD
        for place, (token, following) in enumerate(itertools.pairwise(chain), 1):
            embedding[token] = 0.0
            embedding[token, place] = 1.0
            head[following, place] = _LOUD
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
