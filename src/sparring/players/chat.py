"""Between messages and token ids: a model's own chat template, and nothing of ours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

from sparring.types import Completion, Message, Observation, Role, UsageError

_UNPAIRED = re.compile("[\ud800-\udfff]")
"""Half characters, which JSON can spell and no tokenizer takes."""


class Vocabulary:
    """A tokenizer, used so that content can never pass for template."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def ids(self, text: str) -> tuple[int, ...]:
        """Token ids of a template's own text: what spells a special token is one."""
        return self.all_ids([text])[0]

    def all_ids(self, texts: Sequence[str], plain: bool = False) -> list[tuple[int, ...]]:
        """Token ids of each text in one call; `plain` splits what spells a special token."""
        if not texts:
            return []
        encoded = self.tokenizer(
            [_UNPAIRED.sub("\ufffd", text) for text in texts],
            add_special_tokens=False,
            split_special_tokens=plain,
            return_attention_mask=False,
        )
        return [tuple(ids) for ids in encoded["input_ids"]]

    def controls(self, ids: Sequence[int]) -> tuple[int, ...]:
        """The special tokens among `ids`, in order."""
        return tuple(i for i in ids if i in self.control)

    def content(self, text: str) -> tuple[int, ...]:
        """Token ids of text from outside; what still spells a special token is left out.

        Byte-level vocabularies split it into pieces; word-level and Unigram ones may not.
        """
        return tuple(i for i in self.all_ids([text], plain=True)[0] if i not in self.control)

    @cached_property
    def control(self) -> frozenset[int]:
        """Special tokens that content must never yield; unknown words are no more than that."""
        words = self.tokenizer
        added = {i for i, token in words.added_tokens_decoder.items() if token.special}
        unknown = {words.unk_token_id} - {words.eos_token_id, words.bos_token_id}
        return frozenset({*words.all_special_ids, *added} - unknown)


_MARK = re.compile("\ue000([0-9]+)\ue001")


def _mark(number: int) -> str:
    """Stands for a content while a template is rendered; no template spells it."""
    return f"\ue000{number}\ue001"


class Chat:
    """A tokenizer's chat template, used so that content can never pass for template."""

    def __init__(self, tokenizer: Any, stop_ids: Sequence[int] = ()) -> None:
        if not tokenizer.chat_template:
            raise UsageError(
                f"model_name_or_path: {tokenizer.name_or_path} has no chat template; an "
                "instruction-tuned model is needed (or add chat_template.jinja to its folder)"
            )
        self.tokenizer = tokenizer
        self._words = Vocabulary(tokenizer)
        self._extra_stops = tuple(stop_ids)
        self._by_roles: dict[tuple[Role, ...], tuple[int, ...]] = {}

    def prompt_ids(self, observation: Observation) -> tuple[int, ...]:
        """Token ids up to where the assistant's reply starts, shape [T]."""
        return self.prompts([observation])[0]

    def prompts(self, observations: Sequence[Observation]) -> list[tuple[int, ...]]:
        """`prompt_ids` of each, in one call of the tokenizer."""
        rendered = self._words.all_ids([self._render(each) for each in observations])
        return [
            ids if self._is_plain(ids, observation) else self._spliced(observation)
            for ids, observation in zip(rendered, observations, strict=True)
        ]

    def _is_plain(self, ids: tuple[int, ...], observation: Observation) -> bool:
        """Whether no content has become a special token, or would alone.

        The quick check: the prompt's special tokens are those of its template, in order, and no
        content spells the unknown token: a word that is not in the vocabulary gives that token and
        is harmless, but its spelling is not, since Qwen2's also ends a text. A template may write
        others for other contents, so where they differ every content is checked by itself.
        """
        words, contents = self._words, [message.content for message in observation]
        unknown = self.tokenizer.unk_token
        if unknown and any(unknown in content for content in contents):
            return False
        roles = tuple(message.role for message in observation)
        if roles not in self._by_roles:
            marked = self._spliced(tuple(Message(role, _mark(0)) for role in roles))
            self._by_roles[roles] = words.controls(marked)
        if words.controls(ids) == self._by_roles[roles]:
            return True
        return not any(words.controls(words.ids(content)) for content in contents)

    def verbatim_ids(self, observation: Observation) -> tuple[int, ...]:
        """As `prompt_ids`, but a content that the template would rewrite is shown as it stands.

        Qwen3's drops what an assistant's turn says before `</think>`, which would hide it from
        a judge. White space around a content is the template's to trim.
        """
        messages, marked = self._marked(observation)
        rendered, contents = self._render(observation), [m.content for m in messages]
        for shown in (contents, [content.strip() for content in contents]):
            filled = _MARK.sub(lambda mark, shown=shown: shown[int(mark[1])], marked)  # type: ignore[misc]
            if rendered == filled:
                return self.prompt_ids(observation)
        return self._spliced(observation)

    def reply_ids(self, text: str) -> tuple[int, ...]:
        """Token ids of a reply and the token that ends the turn, shape [T]."""
        return (*self._words.content(text), self.turn_end)

    def text(self, ids: Sequence[int]) -> str:
        """What a person or a judge reads; special tokens are not text."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def completion(
        self,
        prompt_ids: tuple[int, ...],
        token_ids: Sequence[int],
        logprobs: Sequence[float],
        version: int,
    ) -> Completion:
        """What was sampled after a prompt; it is finished if its last token ends a completion."""
        finished = token_ids[-1] in self.stop_ids
        tokens, logps = tuple(token_ids), tuple(logprobs)
        return Completion(self.text(tokens), tokens, logps, prompt_ids, version, finished)

    @cached_property
    def turn_end(self) -> int:
        """The token with which the template closes an assistant's turn."""
        turns = (Message("user", "x"), Message("assistant", _mark(0)))
        tail = self._render(turns, reply=False).rpartition(_mark(0))[2]
        special = self._words.controls(self._words.ids(tail))
        if special:
            return special[0]
        if self.tokenizer.eos_token_id is None:
            raise UsageError(
                f"model_name_or_path: {self.tokenizer.name_or_path} cannot end a reply: its chat "
                "template closes no turn with a special token, and it has no eos_token"
            )
        return int(self.tokenizer.eos_token_id)

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

    def _template(self, messages: Observation, reply: bool = False) -> str:
        """The template's text, which opens the assistant's turn for a `reply`."""
        plain = [{"role": message.role, "content": message.content} for message in messages]
        applied = self.tokenizer.apply_chat_template(
            plain, tokenize=False, add_generation_prompt=reply
        )
        return str(applied)

    def _render(self, observation: Observation, reply: bool = True) -> str:
        try:
            return self._template(self._supported(observation), reply)
        except TemplateError as error:
            name = self.tokenizer.name_or_path
            raise UsageError(
                f"model_name_or_path: the chat template of {name} fails: {error}"
            ) from error

    @cached_property
    def _takes_system(self) -> bool:
        try:
            return _mark(0) in self._template((Message("system", _mark(0)), Message("user", "x")))
        except TemplateError:
            return False

    def _marked(self, observation: Observation) -> tuple[Observation, str]:
        """The messages, and their text with the mark of its number in the place of each content."""
        messages = self._supported(observation)
        marks = tuple(Message(m.role, _mark(i)) for i, m in enumerate(messages))
        return messages, self._render(marks)

    def _supported(self, observation: Observation) -> Observation:
        """Where the template knows no system role, the brief opens the first user message."""
        if observation[0].role != "system" or self._takes_system:
            return observation
        system, user, *rest = observation
        return (Message("user", f"{system.content}\n\n{user.content}"), *rest)

    def _spliced(self, observation: Observation) -> tuple[int, ...]:
        """Token ids where every content is tokenized as plain text, apart from the template.

        Content that spells `<|im_end|>` would otherwise close its own message.
        """
        messages, marked = self._marked(observation)
        before, *rest = _MARK.split(marked)
        ids = [*self._words.ids(before)]
        for number, after in zip(rest[::2], rest[1::2], strict=True):
            ids += [*self._words.content(messages[int(number)].content), *self._words.ids(after)]
        return tuple(ids)
