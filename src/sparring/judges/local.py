"""A judge's model in this process: transformers, greedy, what is judged kept apart as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sparring.judges.model_judge import Answer, Ask, Heard, Raw, unheard
from sparring.players.chat import Chat, Vocabulary
from sparring.players.loading import stop_ids
from sparring.types import Status


@dataclass(eq=False)
class InProcess:
    """`model`, which is a judge's alone, with its `tokenizer`.

    Nothing is ever cut to fit the context, at either end: without its instructions or without
    the reply a judge's answer would be about something else. Such a question is `truncated`.
    `batch_tokens` bounds rows x length of what decodes together.
    """

    model: Any
    tokenizer: Any
    identity: str
    batch_tokens: int = 16_384
    _stops: frozenset[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        eos = {self.tokenizer.eos_token_id} - {None}
        self._stops = frozenset({*stop_ids(self.model), *eos})
        # generate() would fall back on the model's own penalties, which are not greedy.
        self.model.generation_config = _config()

    def answer(self, asked: Sequence[Ask], heard: Heard = unheard) -> list[Answer]:
        """As every engine; a batch is heard when it is done."""
        told: dict[int, Answer] = {}
        prompts = [self.prompt_ids(ask) for ask in asked]
        for place, (ask, ids) in enumerate(zip(asked, prompts, strict=True)):
            over = len(ids) + ask.max_tokens - self.context
            if over > 0:
                why = f"the prompt of {len(ids)} tokens is {over} over the context; nothing was cut"
                told[place] = Answer(status=Status.TRUNCATED, calls=0, why=why)
                heard(place, told[place])
        for chunk in self._chunks(asked, prompts, [i for i in range(len(asked)) if i not in told]):
            said = self._greedy([prompts[i] for i in chunk], asked[chunk[0]].max_tokens)
            for place, new in zip(chunk, said, strict=True):
                told[place] = self._answer(asked[place], len(prompts[place]), new)
                heard(place, told[place])
        return [told[place] for place in range(len(asked))]

    @cached_property
    def context(self) -> int:
        """Tokens of prompt and answer together."""
        told = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        longest = int(self.tokenizer.model_max_length)
        return min(int(told or longest), longest)

    def prompt_ids(self, ask: Ask) -> tuple[int, ...]:
        """Token ids of a question, shape [T]; an untrusted span yields no special token."""
        if isinstance(ask.prompt, Raw):
            return self._opened(self._raw(ask.prompt))
        return self._chat.verbatim_ids(ask.prompt)

    @cached_property
    def _chat(self) -> Chat:
        return Chat(self.tokenizer, sorted(self._stops))

    @cached_property
    def _words(self) -> Vocabulary:
        return Vocabulary(self.tokenizer)

    def _raw(self, prompt: Raw) -> tuple[int, ...]:
        """The flat text's ids, as published, unless what is judged would add special tokens."""
        words = self._words
        whole = words.ids(prompt.text)
        trusted = [part for part in prompt.parts if isinstance(part, str)]
        special = words.control | {words.tokenizer.unk_token_id}
        meant = [i for part in trusted for i in words.ids(part) if i in special]
        if [i for i in whole if i in special] == meant:
            return whole
        spans = (
            words.ids(p) if isinstance(p, str) else words.content(p.text) for p in prompt.parts
        )
        return tuple(i for span in spans for i in span)

    def _opened(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """With the token that a tokenizer opens every text with, if it does, and only once."""
        bos = self.tokenizer.bos_token_id
        opens = bos is not None and self.tokenizer("x")["input_ids"][0] == bos
        return (bos, *ids) if opens and ids[:1] != (bos,) else ids

    def _chunks(
        self, asked: Sequence[Ask], prompts: Sequence[tuple[int, ...]], due: Sequence[int]
    ) -> Iterator[list[int]]:
        """Places that decode together: as long an answer, a similar prompt, within the budget."""
        chunk: list[int] = []
        for i in sorted(due, key=lambda i: (asked[i].max_tokens, len(prompts[i]), i)):
            length = len(prompts[i]) + asked[i].max_tokens
            other = chunk and asked[chunk[0]].max_tokens != asked[i].max_tokens
            if chunk and (other or (len(chunk) + 1) * length > self.batch_tokens):
                yield chunk
                chunk = []
            chunk.append(i)
        if chunk:
            yield chunk

    def _greedy(self, prompts: Sequence[tuple[int, ...]], max_tokens: int) -> list[list[int]]:
        """The likeliest token, again and again; up to and with the one that ends the turn."""
        import torch

        longest, pad = max(map(len, prompts)), min(self._ends, default=0)
        ids_BT = torch.full((len(prompts), longest), pad)
        mask_BT = torch.zeros_like(ids_BT)
        for row, prompt in enumerate(prompts):
            ids_BT[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask_BT[row, longest - len(prompt) :] = 1
        config = _config(
            do_sample=False,
            max_new_tokens=max_tokens,
            eos_token_id=sorted(self._ends) or None,
            pad_token_id=pad,
        )
        with torch.inference_mode():
            out_BT = self.model.generate(
                input_ids=ids_BT.to(self.model.device),
                attention_mask=mask_BT.to(self.model.device),
                generation_config=config,
            )
        said = out_BT[:, longest:].tolist()
        return [
            row[: next((t + 1 for t, i in enumerate(row) if i in self._ends), None)] for row in said
        ]

    @cached_property
    def _ends(self) -> frozenset[int]:
        """Tokens that end an answer: the model's own, and what closes a turn of its template."""
        return self._chat.stop_ids if self.tokenizer.chat_template else self._stops

    def _answer(self, ask: Ask, prompted: int, ids: Sequence[int]) -> Answer:
        ended = bool(ids) and ids[-1] in self._ends
        text = str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
        if not ended and not ask.label:
            why = "the answer was cut by the length limit"
            return Answer("", Status.TRUNCATED, prompted, len(ids), why=why)
        return Answer(text, Status.OK, prompted, len(ids))


def _config(**told: Any) -> Any:
    from transformers import GenerationConfig

    make: Any = GenerationConfig
    return make(**told)
