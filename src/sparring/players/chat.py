"""Between messages and token ids: a model's own chat template, and nothing of ours."""

import copy
import inspect
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property, partial
from typing import Any, Self

from sparring.games.game import MARKS, THOUGHTS, split_thought
from sparring.players.loading import bounded, context_of, stop_ids
from sparring.types import Completion, Message, Observation, Role, UsageError

_CONTROL = re.compile(r"[^\w\s]\S*\w\S*[^\w\s]")
"""What the spelling of a control token looks like, whether or not it is called special: `<think>`
and `<tool_call>` of Qwen3 are not. Added words and runs of spaces are no control tokens."""


def paired(text: str) -> str:
    """A text with lone surrogates replaced: JSON can spell them, tokenizers refuse them."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


class Vocabulary:
    """A tokenizer, used so that content can never pass for template."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.added = dict(tokenizer.added_tokens_decoder)

    def ids(self, text: str) -> tuple[int, ...]:
        """Token ids of a template's own text: what spells a special token is one."""
        return self.all_ids([text])[0]

    def all_ids(self, texts: Sequence[str], plain: bool = False) -> list[tuple[int, ...]]:
        """Token ids of each text in one call; `plain` splits what spells a control token."""
        if not texts:
            return []
        encoded = (self._plain if plain else self.tokenizer)(
            [paired(text) for text in texts],
            add_special_tokens=False,
            split_special_tokens=plain,
            return_attention_mask=False,
        )
        return [tuple(ids) for ids in encoded["input_ids"]]

    @cached_property
    def _plain(self) -> Any:
        """The tokenizer, or a copy that takes every control token for special and so splits it."""
        from tokenizers import AddedToken

        odd = [t for t in self.added.values() if not t.special and _CONTROL.fullmatch(t.content)]
        if not odd:
            return self.tokenizer
        copied = copy.deepcopy(self.tokenizer)
        special = [AddedToken(t.content, normalized=t.normalized, special=True) for t in odd]
        copied.add_tokens(special, special_tokens=True)
        return copied

    @cached_property
    def _marks(self) -> list[str]:
        """The added tokens that the marks of a thought, or of an answer, are made of."""
        return [t.content for t in self.added.values() if any(t.content in m for m in MARKS)]

    @cached_property
    def _silent(self) -> frozenset[int]:
        """The special tokens that are no text: all but the marks."""
        special = (i for i, t in self.added.items() if t.special and t.content not in self._marks)
        return frozenset(special)

    def text(self, ids: Sequence[int]) -> str:
        """What a model wrote, with the marks of its thoughts."""
        shown = [i for i in ids if i not in self._silent]
        return str(self.tokenizer.decode(shown, skip_special_tokens=False)).strip()

    def written(self, text: str) -> tuple[int, ...]:
        """Token ids of what a model is to write: marks are the vocabulary's own, the rest text."""
        if not self._marks:
            return self.content(text)
        pieces = re.split(f"({'|'.join(map(re.escape, self._marks))})", text)
        ids = [self.ids(p) if p in self._marks else self.content(p) for p in pieces if p]
        return tuple(i for piece in ids for i in piece)

    def controls(self, ids: Sequence[int]) -> tuple[int, ...]:
        """The control tokens among `ids`, in order."""
        return tuple(i for i in ids if i in self.control)

    def content(self, text: str) -> tuple[int, ...]:
        """Token ids of text from outside; what still spells a control token is left out.

        Byte-level vocabularies split it into pieces; word-level and Unigram ones may not.
        """
        return tuple(i for i in self.all_ids([text], plain=True)[0] if i not in self.control)

    @cached_property
    def control(self) -> frozenset[int]:
        """Control tokens that content must never yield; `unk` only if it also ends a text."""
        words = self.tokenizer
        added = {i for i, t in self.added.items() if t.special or _CONTROL.fullmatch(t.content)}
        unknown = {words.unk_token_id} - {words.eos_token_id, words.bos_token_id}
        return frozenset({*words.all_special_ids, *added} - unknown)


_MARK = re.compile("\ue000([0-9]+)\ue001")


def _mark(number: int) -> str:
    """Stands for a content while a template is rendered; no template spells it."""
    return f"\ue000{number}\ue001"


_NOW = datetime(2024, 7, 26, 12)
"""Now, to a template that writes the date: a run has the same prompts on every day."""
_CLOCK = "".join(f"|replace('%{d}','{_NOW.strftime('%' + d)}')" for d in "aAbBdHIjmMpSyY")
_CLOCK = f"{{%- macro strftime_now(form) -%}}{{{{- form{_CLOCK} -}}}}{{%- endmacro -%}}"
_LONGEST = 2**20
"""Characters that a template may write of a short conversation."""


class Chat:
    """A tokenizer's chat template, used so that content can never pass for template.

    `stop_ids` end a completion beside the token that ends a turn. `template_kwargs` are handed to
    the template. `context` is the most tokens that the model reads and writes together.
    """

    def __init__(
        self,
        tokenizer: Any,
        stop_ids: Sequence[int] = (),
        template_kwargs: Mapping[str, Any] | None = None,
        context: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.template_kwargs = dict(template_kwargs or {})
        self.context = min(context or int(tokenizer.model_max_length), 2**40)
        self.prefill = ""
        self.words = Vocabulary(tokenizer)
        self._extra_stops = tuple(stop_ids)
        self._by_roles: dict[tuple[Role, ...], tuple[int, ...]] = {}
        self._check()

    @classmethod
    def of(
        cls, model: Any, tokenizer: Any, template_kwargs: Mapping[str, Any] | None = None
    ) -> Self:
        """The chat of a loaded model, with its stop tokens and its context."""
        return cls(tokenizer, stop_ids(model), template_kwargs, context_of(model))

    def _check(self) -> None:
        """Refuse a template that cannot be used, or that takes too much time or memory."""
        if not self.tokenizer.chat_template:
            raise UsageError(
                f"model_name_or_path: {self.tokenizer.name_or_path} has no chat template; an "
                "instruction-tuned model is needed (or add chat_template.jinja to its folder)"
            )
        own = inspect.signature(self.tokenizer.apply_chat_template).parameters
        if taken := sorted(self.template_kwargs.keys() & own.keys()):
            raise UsageError(
                f"chat_template_kwargs: {', '.join(taken)} cannot be set; wanted what the chat "
                "template itself takes, such as enable_thinking"
            )
        request = Message("user", "Open the 7 gates, please.\n\nThen close them. " * 20 + _mark(0))
        turns = (request, Message("assistant", "x"), request)
        tried: list[Observation] = [(request,), turns, (Message("system", "x"), *turns)]
        renders = [partial(self._render, each, reply) for each in tried for reply in (True, False)]
        if not bounded(renders, _LONGEST):
            raise self._unusable(f"takes over 5 s, 512 MB or {_LONGEST} characters for two turns")
        if request.content not in self._render((request,)):
            raise self._unusable("leaves out or changes what the user says")

    def _unusable(self, why: str) -> UsageError:
        name = self.tokenizer.name_or_path
        cure = "mend its chat_template.jinja, or take another model"
        return UsageError(f"model_name_or_path: the chat template of {name} {why}; {cure}")

    def beginning(self, prefill: str) -> Self:
        """Return this chat with the beginning of every reply put into the model's mouth."""
        chat = copy.copy(self)
        chat.prefill = prefill
        return chat

    def prompt_ids(self, observation: Observation) -> tuple[int, ...]:
        """Token ids up to where the assistant's reply starts, shape [T]."""
        return self.prompts([observation])[0]

    def prompts(self, observations: Sequence[Observation]) -> list[tuple[int, ...]]:
        """`prompt_ids` of each, in one call of the tokenizer."""
        rendered = self.words.all_ids([self._render(each) for each in observations])
        begun = self.reply_ids(self.prefill, finished=False) if self.prefill else ()
        return [
            (*(ids if self._is_plain(ids, observation) else self._spliced(observation)), *begun)
            for ids, observation in zip(rendered, observations, strict=True)
        ]

    def _is_plain(self, ids: tuple[int, ...], observation: Observation) -> bool:
        """Whether no content has become a special token, or would alone.

        The quick check: the prompt's special tokens are those of its template, in order, and no
        content spells the unknown token: an unknown word yields it harmlessly, but its literal
        spelling is unsafe, as Qwen2's also ends a text. A template's special tokens may vary with
        the content, so if they differ, each content is checked alone.
        """
        words, contents = self.words, [message.content for message in observation]
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

    def around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Token ids before and after what a user says in the first message."""
        before, _, after = _MARK.split(self._render((Message("user", _mark(0)),)))
        return self.words.ids(before), self.words.ids(after)

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

    def reply_ids(self, text: str, finished: bool = True) -> tuple[int, ...]:
        """Token ids of a reply to imitate and, if finished, the token that ends the turn: [T].

        Where the template has opened a thought the reply goes on in it, or closes it first.
        """
        if self.opened:
            thought, rest = split_thought(text) or ("", f"\n\n{text}")
            text = f"{thought}{dict(THOUGHTS)[self.opened]}{rest or ''}"
        return (*self.words.written(text), *([self.turn_end] if finished else []))

    def text(self, ids: Sequence[int]) -> str:
        """What a model wrote after a prompt; a thought that the template opened is whole in it."""
        text = self.words.text(ids)
        if self.prefill:
            return f"{self.prefill} {text}"
        return text if text.startswith(self.opened) else self.opened + text

    @cached_property
    def opened(self) -> str:
        """The mark of a thought with which the template itself opens a reply, or nothing."""
        prompt = self._render((Message("user", _mark(0)),)).rstrip()
        return next((mark for mark, _ in THOUGHTS if prompt.endswith(mark)), "")

    def completion(
        self,
        prompt_ids: tuple[int, ...],
        token_ids: Sequence[int],
        logprobs: Sequence[float],
        version: int,
    ) -> Completion:
        """What was sampled after a prompt; it is finished if its last token ends a completion."""
        finished = token_ids[-1] in self.stop_ids
        tokens, logps, text = tuple(token_ids), tuple(logprobs), self.text(token_ids)
        return Completion(text, tokens, logps, prompt_ids, version, finished)

    @cached_property
    def turn_end(self) -> int:
        """The token with which the template closes an assistant's turn."""
        turns = (Message("user", "x"), Message("assistant", _mark(0)))
        _, shown, tail = self._render(turns, reply=False).rpartition(_mark(0))
        special = self.words.controls(self.words.ids(tail))
        if special and shown:
            return special[0]
        if self.tokenizer.eos_token_id is None:
            raise self._unusable("closes no turn with a special token, and there is no eos_token")
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
        try:
            template = self.tokenizer.get_chat_template()
            applied = self.tokenizer.apply_chat_template(
                plain,
                chat_template=_CLOCK + template if "strftime_now" in template else template,
                tokenize=False,
                add_generation_prompt=reply,
                **self.template_kwargs,
            )
        except Exception as error:  # a template is a program, and may fail in any way
            why = f"{type(error).__name__}: {error}"
            raise self._unusable(f"fails: {why:.300}") from error
        return str(applied)

    def _render(self, observation: Observation, reply: bool = True) -> str:
        return self._template(self._supported(observation), reply)

    @cached_property
    def _takes_system(self) -> bool:
        try:
            return _mark(0) in self._template((Message("system", _mark(0)), Message("user", "x")))
        except UsageError:
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
        ids = [*self.words.ids(before)]
        for number, after in zip(rest[::2], rest[1::2], strict=True):
            ids += [*self.words.content(messages[int(number)].content), *self.words.ids(after)]
        return tuple(ids)
