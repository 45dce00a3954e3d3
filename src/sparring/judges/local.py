"""A judge's model in this process: transformers, greedy, what is judged kept apart as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from sparring.judges.model_judge import Answer, OnAnswer, Question, Raw, ignore
from sparring.players.chat import Chat, Vocabulary
from sparring.players.loading import context_of, stop_ids
from sparring.pulse import beat
from sparring.types import Status


@dataclass(eq=False)
class InProcess:
    """`model`, which is a judge's alone, with its `tokenizer`.

    Nothing is ever cut to fit the context, at either end: without its instructions or without
    the reply a judge's answer would be about something else. Such a question is `too_long`.
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

    def answer(self, questions: Sequence[Question], on_answer: OnAnswer = ignore) -> list[Answer]:
        """As every engine; the answers of a batch come when it is done."""
        answers: dict[int, Answer] = {}

        def finish(place: int, answer: Answer) -> None:
            answers[place] = answer
            on_answer(place, answer)

        prompts = [self.prompt_ids(question) for question in questions]
        for place, (question, ids) in enumerate(zip(questions, prompts, strict=True)):
            over = len(ids) + question.max_tokens - self.context
            if over > 0:
                why = f"the prompt of {len(ids)} tokens is {over} over the context; nothing was cut"
                finish(place, Answer(status=Status.TOO_LONG, calls=0, why=why))
        due = [place for place in range(len(questions)) if place not in answers]
        for chunk in self._chunks(questions, prompts, due):
            beat("judging", len(answers), len(questions))
            new_ids = self._greedy([prompts[i] for i in chunk], questions[chunk[0]].max_tokens)
            for place, new in zip(chunk, new_ids, strict=True):
                finish(place, self._answer(questions[place], len(prompts[place]), new))
        return [answers[place] for place in range(len(questions))]

    @cached_property
    def context(self) -> int:
        """Tokens of prompt and answer together."""
        longest = int(self.tokenizer.model_max_length)
        return min(context_of(self.model) or longest, longest)

    def prompt_ids(self, question: Question) -> tuple[int, ...]:
        """Token ids of a question, shape [T]; an untrusted span yields no special token."""
        if isinstance(question.prompt, Raw):
            return self._opened(self._raw(question.prompt))
        return self._chat.verbatim_ids(question.prompt)

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
        special = words.control | {self.tokenizer.unk_token_id}
        published = [words.ids(part) for part in prompt.parts if isinstance(part, str)]
        meant = [i for ids in published for i in ids if i in special]
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
        self, questions: Sequence[Question], prompts: Sequence[tuple[int, ...]], due: Sequence[int]
    ) -> Iterator[list[int]]:
        """Places that decode together: as long an answer, a similar prompt, within the budget."""
        chunk: list[int] = []
        for i in sorted(due, key=lambda i: (questions[i].max_tokens, len(prompts[i]), i)):
            length = len(prompts[i]) + questions[i].max_tokens
            other = chunk and questions[chunk[0]].max_tokens != questions[i].max_tokens
            if chunk and (other or (len(chunk) + 1) * length > self.batch_tokens):
                yield chunk
                chunk = []
            chunk.append(i)
        if chunk:
            yield chunk

    def _greedy(self, prompts: Sequence[tuple[int, ...]], max_tokens: int) -> list[list[int]]:
        """The likeliest token, again and again; up to and with the one that ends the turn."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        pad = min(self._ends, default=0)
        padded = partial(pad_sequence, batch_first=True, padding_side="left")
        ids_BT = padded([torch.tensor(prompt) for prompt in prompts], padding_value=pad)
        mask_BT = padded([torch.ones(len(prompt), dtype=torch.long) for prompt in prompts])
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
        rows = out_BT[:, ids_BT.shape[1] :].tolist()
        return [
            row[: next((t + 1 for t, i in enumerate(row) if i in self._ends), None)] for row in rows
        ]

    @cached_property
    def _ends(self) -> frozenset[int]:
        """Tokens that end an answer: the model's own, and what closes a turn of its template."""
        return self._chat.stop_ids if self.tokenizer.chat_template else self._stops

    def _answer(self, question: Question, prompted: int, ids: Sequence[int]) -> Answer:
        if not question.is_label and not (ids and ids[-1] in self._ends):
            why = "the answer was cut by the length limit"
            return Answer("", Status.TRUNCATED, prompted, len(ids), why=why)
        text = str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
        return Answer(text, Status.OK, prompted, len(ids))


def _config(**settings: Any) -> Any:
    from transformers import GenerationConfig

    make: Any = GenerationConfig
    return make(**settings)
