"""The sandbox's language model: a tiny Llama with a real tokenizer and chat template."""

import json
from pathlib import Path
from typing import Any

from sparring import packaged
from sparring.door import read_json, reading
from sparring.sandbox.language import Language
from sparring.types import CorruptError, UsageError

SHIPPED = Path(__file__).parent / "weights"
"""The folder of the base that comes with the package."""
CARD = "sandbox.json"
"""The file beside a base's weights that names its language and its lessons."""
_SHAPE = packaged.table("sandbox/model.yaml")
"""The special tokens, and the settings of the tokenizer and of the network."""


def one_thread() -> None:
    """Compute on one thread, so that the bits do not depend on the number of cores.

    Matrices this small gain next to nothing from a second one.
    """
    import torch

    torch.set_num_threads(1)


def tokenizer(language: Language) -> Any:
    """A word-level tokenizer of the language's words, with chat roles."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate([*_SHAPE["special"], *language.words])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unk|>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core, **_SHAPE["tokenizer"]
    )


def untrained(vocabulary: int, torch_seed: int) -> Any:
    """A 2-layer Llama of about 0.5 M parameters, initialised from `torch_seed` alone."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=vocabulary, **_SHAPE["network"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed)
        return LlamaForCausalLM(config)


def write_card(path: Path, language: Language, recipe: str, base_seed: int) -> None:
    """Write beside a base's weights which language and which lessons made them."""
    card = {
        "language_seed": language.seed,
        "language_sha256": language.digest,
        "recipe_sha256": recipe,
        "base_seed": base_seed,
    }
    (path / CARD).write_text(json.dumps(card, indent=2) + "\n")


def check_same_base(base: Path, adapter: Path) -> None:
    """Refuse an adapter that was trained on another sandbox base: it would mean nothing on this."""
    cards = [read_json(path / CARD) for path in (base, adapter) if (path / CARD).is_file()]
    if len(cards) == 2 and cards[0] != cards[1]:
        raise UsageError(
            f"{adapter}: was trained on another sandbox base than {base} ({CARD} of both say "
            "which); name that one, or use the version of sparring whose sandbox it is"
        )


def language_of(path: Path) -> Language:
    """The language a base was trained in; CorruptError if this version speaks another one."""
    if not path.is_dir():
        raise UsageError(f"model_name_or_path: no such folder: {path}")
    if not (path / CARD).is_file():
        raise UsageError(
            f"{path}: no {CARD}, so this is not a sandbox base; "
            "give data.train a seed file to play with another model"
        )
    card = read_json(path / CARD)
    with reading(path / CARD):
        language, digest = Language(int(card["language_seed"])), str(card["language_sha256"])
    if language.digest != digest:
        raise CorruptError(
            f"{path / CARD}: trained in language {digest:.12}, but this version "
            f"speaks {language.digest[:12]}; rebuild it with python -m sparring.sandbox.build"
        )
    return language
