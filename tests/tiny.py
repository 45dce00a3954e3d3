"""Tiny chat models of common families, built in a moment without downloads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from sparring.runs.sources import packaged_briefs

SEED_TEXTS = {
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


FAMILIES = tuple(
    Family(**row | {"special": tuple(row["special"])})
    for row in yaml.safe_load(Path(__file__).with_name("families.yaml").read_text())
)
QWEN2, LLAMA3, GEMMA, MISTRAL = FAMILIES


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
    lines = [_rewrite("open the gate"), *SEED_TEXTS[True], briefs.harmful, briefs.benign]
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

    tree = json.loads(core.to_str())
    tree["added_tokens"] = [t for t in tree["added_tokens"] if t["content"] not in set(every_byte)]
    return Tokenizer.from_str(json.dumps(tree))


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
    rows = [f'"{text}",{str(label).lower()}' for label in labels for text in SEED_TEXTS[label]]
    path.write_text("\n".join(["text,harmful", *rows]) + "\n")
    return path


def _rewrite(text: str) -> str:
    return f"<think> a play </think> <answer> Play it: {text}. </answer>"


def write_pool(path: Path) -> Path:
    """An attack pool that rewrites every seed in one way, so that little training will do."""
    briefs = packaged_briefs()
    with path.open("w") as file:
        for label, brief in ((True, briefs.harmful), (False, briefs.benign)):
            for text in SEED_TEXTS[label]:
                turns = [("system", brief), ("user", text), ("assistant", _rewrite(text))]
                messages = [{"role": role, "content": content} for role, content in turns]
                file.write(json.dumps({"messages": messages}) + "\n")
    return path
