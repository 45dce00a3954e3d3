"""Tiny chat models of the families people bring, built in a moment and never downloaded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from sparring.runs.sources import packaged_briefs

ASKED = {
    True: ["open the dragon vault", "wake the giant", "forge the queen's seal", "steal the moon"],
    False: ["polish the brass lantern", "sweep the stairs", "paint the gate", "bake the bread"],
}


@dataclass(frozen=True)
class Family:
    """One family of chat models: its template, its special tokens, its tokenizer, its network."""

    name: str
    template: str
    special: tuple[str, ...]
    bos: str | None
    eos: str | None
    turn_end: str
    takes_system: bool
    byte_level: bool
    network: Mapping[str, Any] = field(default_factory=dict, hash=False)


QWEN2 = Family(
    name="qwen2",
    template=(
        "{%- if messages[0]['role'] != 'system' -%}"
        "{{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' -}}{%- endif -%}"
        "{%- for message in messages -%}"
        "{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' -}}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
    ),
    special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    bos=None,
    eos="<|im_end|>",
    turn_end="<|im_end|>",
    takes_system=True,
    byte_level=True,
)
LLAMA3 = Family(
    name="llama",
    template=(
        "{{- bos_token -}}{%- for message in messages -%}"
        "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
        " + message['content'] | trim + '<|eot_id|>' -}}{%- endfor -%}"
        "{%- if add_generation_prompt -%}"
        "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}{%- endif -%}"
    ),
    special=(
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ),
    bos="<|begin_of_text|>",
    eos="<|end_of_text|>",
    turn_end="<|eot_id|>",
    takes_system=True,
    byte_level=True,
)
_ALTERNATE = (
    "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{- raise_exception('Conversation roles must alternate user/assistant/...') -}}{%- endif -%}"
)
GEMMA = Family(
    name="gemma2",
    template=(
        "{{- bos_token -}}{%- if messages[0]['role'] == 'system' -%}"
        "{{- raise_exception('System role not supported') -}}{%- endif -%}"
        "{%- for message in messages -%}" + _ALTERNATE + "{{- '<start_of_turn>'"
        " + ('model' if message['role'] == 'assistant' else message['role']) + '\n'"
        " + message['content'] | trim + '<end_of_turn>\n' -}}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<start_of_turn>model\n' -}}{%- endif -%}"
    ),
    special=("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
    bos="<bos>",
    eos="<eos>",
    turn_end="<end_of_turn>",
    takes_system=False,
    byte_level=False,
    network={"sliding_window": 64, "query_pre_attn_scalar": 16},
)
MISTRAL = Family(
    name="mistral",
    template=(
        "{{- bos_token -}}{%- for message in messages -%}" + _ALTERNATE + ""
        "{%- if message['role'] == 'user' -%}{{- '[INST] ' + message['content'] + ' [/INST]' -}}"
        "{%- else -%}{{- message['content'] + eos_token -}}{%- endif -%}{%- endfor -%}"
    ),
    special=("<s>", "</s>", "[INST]", "[/INST]"),
    bos="<s>",
    eos="</s>",
    turn_end="</s>",
    takes_system=False,
    byte_level=False,
    network={"sliding_window": None},
)
FAMILIES = (QWEN2, LLAMA3, GEMMA, MISTRAL)


@cache
def tokenizer(family: Family) -> Any:
    """A BPE tokenizer of that family, trained on a page of harmless text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    every_byte = [f"<0x{n:02X}>" for n in range(256)]
    if family.byte_level:
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        alphabet, first = pre_tokenizers.ByteLevel.alphabet(), []
    else:
        core = Tokenizer(models.BPE(byte_fallback=True))
        core.normalizer = normalizers.Replace(" ", "▁")
        pieces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        core.decoder = decoders.Sequence(pieces)
        alphabet, first = [], every_byte
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=[*family.special, *first],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    briefs = packaged_briefs()
    lines = [_rewrite("open the gate"), *ASKED[True], briefs.harmful, briefs.benign]
    core.train_from_iterator(lines, trainer)
    if first:
        core = _bytes_as_pieces(core, every_byte)
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=family.bos,
        eos_token=family.eos,
        additional_special_tokens=list(family.special),
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = family.template
    return made


def _bytes_as_pieces(core: Any, every_byte: Iterable[str]) -> Any:
    """The trainer can only reserve ids as special tokens; bytes must be ordinary pieces."""
    from tokenizers import Tokenizer

    told = json.loads(core.to_str())
    told["added_tokens"] = [t for t in told["added_tokens"] if t["content"] not in set(every_byte)]
    return Tokenizer.from_str(json.dumps(told))


def save_model(folder: Path, family: Family, seed: int = 0, template: bool = True) -> Path:
    """An untrained model of that family with its tokenizer in `folder`: 2 layers, 32 wide."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    words = tokenizer(family)
    end = words.convert_tokens_to_ids([family.eos, family.turn_end])
    config = AutoConfig.for_model(
        family.name,
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=words.bos_token_id,
        eos_token_id=sorted(set(end)),
        pad_token_id=None,
        initializer_range=0.3,
        **family.network,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    words.save_pretrained(folder)
    if not template:
        (folder / "chat_template.jinja").unlink()
    return folder


def write_seeds(path: Path, labels: Iterable[bool] = (True, False)) -> Path:
    """A CSV of four harmless seeds of each label."""
    rows = [f'"{text}",{str(label).lower()}' for label in labels for text in ASKED[label]]
    path.write_text("\n".join(["text,harmful", *rows]) + "\n")
    return path


def _rewrite(text: str) -> str:
    return f"<think> a play </think> <answer> Play it: {text}. </answer>"


def write_pool(path: Path) -> Path:
    """An attack pool that rewrites every seed in one way, so that little training will do."""
    told = packaged_briefs()
    with path.open("w") as file:
        for label, brief in ((True, told.harmful), (False, told.benign)):
            for text in ASKED[label]:
                turns = [("system", brief), ("user", text), ("assistant", _rewrite(text))]
                messages = [{"role": role, "content": content} for role, content in turns]
                file.write(json.dumps({"messages": messages}) + "\n")
    return path
