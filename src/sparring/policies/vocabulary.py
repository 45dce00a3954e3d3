"""Between text and token ids: what a template says may be special tokens, what others say not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

_UNPAIRED = re.compile("[\ud800-\udfff]")
"""Half characters, which JSON can spell and no tokenizer takes."""


class Vocabulary:
    """A tokenizer, used so that content can never pass for template."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def ids(self, text: str) -> tuple[int, ...]:
        """Token ids of a template's own text: what spells a special token is one."""
        return self.all_ids([text])[0]

    def all_ids(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """`ids` of each, in one call."""
        return self._ids(texts, plain=False) if texts else []

    def controls(self, ids: Sequence[int]) -> tuple[int, ...]:
        """The special tokens among `ids`, in order."""
        return tuple(i for i in ids if i in self.control)

    def content(self, text: str) -> tuple[int, ...]:
        """Token ids of text from outside; what still spells a special token is left out.

        Byte-level vocabularies split it into pieces; word-level and Unigram ones may not.
        """
        return tuple(i for i in self._ids([text], plain=True)[0] if i not in self.control)

    def spells(self, text: str) -> bool:
        """Whether text from outside would hold special tokens if it were taken for template."""
        return bool(self.controls(self.ids(text))) or self.names_unknown(text)

    def names_unknown(self, text: str) -> bool:
        """Whether it spells the unknown token.

        A word that nobody knows gives the unknown token and is harmless; its name is not, since
        Qwen2's also ends a text.
        """
        unknown = self.tokenizer.unk_token
        return bool(unknown) and unknown in text

    @cached_property
    def control(self) -> frozenset[int]:
        """Special tokens that content must never yield; unknown words are no more than that."""
        words = self.tokenizer
        added = {i for i, token in words.added_tokens_decoder.items() if token.special}
        unknown = {words.unk_token_id} - {words.eos_token_id, words.bos_token_id}
        return frozenset({*words.all_special_ids, *added} - unknown)

    def _ids(self, texts: Sequence[str], plain: bool) -> list[tuple[int, ...]]:
        told = self.tokenizer(
            [_UNPAIRED.sub("\ufffd", text) for text in texts],
            add_special_tokens=False,
            split_special_tokens=plain,
            return_attention_mask=False,
        )
        return [tuple(ids) for ids in told["input_ids"]]
