"""Between messages and token ids: a model's own chat template, and nothing of ours."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from sparring.types import Message, Observation, UsageError


class Chat:
    """A tokenizer's chat template, used so that content can never pass for template."""

    def __init__(self, tokenizer: Any, stop_ids: Sequence[int] = ()) -> None:
        if not tokenizer.chat_template:
            raise UsageError(
                f"model_name_or_path: {tokenizer.name_or_path} has no chat template; an "
                "instruction-tuned model is needed (or add chat_template.jinja to its folder)"
            )
        self.tokenizer = tokenizer
        self._extra_stops = tuple(stop_ids)

    def prompt_ids(self, observation: Observation) -> tuple[int, ...]:
        """Token ids up to where the assistant's reply starts, shape [T]."""
        safe = any(self._has_special(message.content) for message in observation)
        return self._spliced(observation) if safe else self._ids(self._render(observation))

    def reply_ids(self, text: str) -> tuple[int, ...]:
        """Token ids of a reply and the token that ends the turn, shape [T]."""
        return (*self._ids(text, plain=True), self.turn_end)

    def text(self, ids: Sequence[int]) -> str:
        """What a person or a judge reads; special tokens are not text."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    @cached_property
    def turn_end(self) -> int:
        """The token with which the template closes an assistant's turn."""
        mark = "x"
        told = self._render((Message("user", mark), Message("assistant", mark)), reply=False)
        tail = told[told.rindex(mark) + len(mark) :]
        special = [i for i in self._ids(tail) if i in set(self.tokenizer.all_special_ids)]
        return special[0] if special else int(self.tokenizer.eos_token_id)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Every token that ends a completion."""
        eos = self.tokenizer.eos_token_id
        return frozenset({self.turn_end, *self._extra_stops, *([] if eos is None else [eos])})

    @cached_property
    def pad_id(self) -> int:
        """What fills the holes of a batch; masked everywhere, so any token would do."""
        pad = self.tokenizer.pad_token_id
        return int(self.turn_end if pad is None else pad)

    def _render(self, observation: Observation, reply: bool = True) -> str:
        messages = [{"role": m.role, "content": m.content} for m in self._supported(observation)]
        return str(
            self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=reply
            )
        )

    @cached_property
    def _takes_system(self) -> bool:
        from jinja2 import TemplateError

        probe = [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]
        try:
            return "x" in self.tokenizer.apply_chat_template(probe, tokenize=False)
        except TemplateError:
            return False

    def _supported(self, observation: Observation) -> Observation:
        """Where the template knows no system role, the brief opens the first user message."""
        if observation[0].role != "system" or self._takes_system:
            return observation
        system, user, *rest = observation
        return (Message("user", f"{system.content}\n\n{user.content}"), *rest)

    def _ids(self, text: str, plain: bool = False) -> tuple[int, ...]:
        told = self.tokenizer(text, add_special_tokens=False, split_special_tokens=plain)
        return tuple(told["input_ids"])

    @cached_property
    def _special(self) -> tuple[str, ...]:
        added = self.tokenizer.added_tokens_decoder.values()
        return tuple({*self.tokenizer.all_special_tokens, *(t.content for t in added if t.special)})

    def _has_special(self, content: str) -> bool:
        return any(token in content for token in self._special)

    def _spliced(self, observation: Observation) -> tuple[int, ...]:
        """Token ids where every content is tokenized as plain text, apart from the template.

        Content that spells `<|im_end|>` would otherwise close its own message.
        """
        messages = self._supported(observation)
        marks = [f"\ue000{i}\ue001" for i in range(len(messages))]
        told = self._render(tuple(Message(m.role, k) for m, k in zip(messages, marks, strict=True)))
        ids: list[int] = []
        for message, mark in zip(messages, marks, strict=True):
            before, told = told.split(mark, 1)
            ids += [*self._ids(before), *self._ids(message.content, plain=True)]
        return (*ids, *self._ids(told))
