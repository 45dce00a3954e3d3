"""A judge's model in this process: transformers, greedy, what is judged kept apart as text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sparring.judges.model_judge import Answer, OnAnswer, Question, Raw, ignore
from sparring.players.chat import Chat, Vocabulary
from sparring.players.loading import context_of, stop_ids
from sparring.players.local import Ends, decode
from sparring.players.logprobs import chunked
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
        return Chat(self.tokenizer, stop_ids(self.model))

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

        def within(chunk: list[int]) -> bool:
            first, last = questions[chunk[0]].max_tokens, questions[chunk[-1]].max_tokens
            return first == last and len(chunk) * (len(prompts[chunk[-1]]) + last) <= budget

        budget = self.batch_tokens
        order = sorted(due, key=lambda i: (questions[i].max_tokens, len(prompts[i]), i))
        return chunked(order, within)

    def _greedy(self, prompts: Sequence[tuple[int, ...]], max_tokens: int) -> list[list[int]]:
        """The likeliest token, again and again; up to and with the one that ends the turn."""
        ends = Ends(self._ends, self.context, min(self._ends, default=0))
        unused_BT = np.zeros((len(prompts), max_tokens))  # nothing is random
        rows = decode(self.model, prompts, range(len(prompts)), unused_BT, 0.0, ends)
        return [ids for ids, _ in rows]

    @cached_property
    def _ends(self) -> frozenset[int]:
        """Tokens that end an answer: the model's own, and what closes a turn of its template."""
        if self.tokenizer.chat_template:
            return self._chat.stop_ids
        return frozenset({*stop_ids(self.model), self.tokenizer.eos_token_id} - {None})

    def _answer(self, question: Question, prompted: int, ids: Sequence[int]) -> Answer:
        if not question.is_label and not (ids and ids[-1] in self._ends):
            why = "the answer was cut by the length limit"
            return Answer("", Status.TRUNCATED, prompted, len(ids), why=why)
        words = self._words if isinstance(question.prompt, Raw) else self._chat
        text = words.text(ids)
        return Answer(text, Status.OK, prompted, len(ids))
