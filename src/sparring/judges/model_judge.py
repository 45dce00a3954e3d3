"""A judge that is a model: a published format, an engine, and nothing made up in between."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any, Literal, Protocol

from sparring.games.game import conversation, reopened, reply_in
from sparring.judges.judge import COSTS, JudgeCard, Usage
from sparring.types import Harm, Observation, State, Status, Verdict


@dataclass(frozen=True, slots=True)
class Untrusted:
    """A span written by a model or a dataset: it never yields a special token, only text."""

    text: str


@dataclass(frozen=True, slots=True)
class Raw:
    """A prompt outside any chat template: the published text is `str`, what is judged `Untrusted`.

    Special tokens spelt in a `str` part are tokens, as the format's authors meant them.
    """

    parts: tuple[str | Untrusted, ...]

    @property
    def text(self) -> str:
        """The prompt as one string, as a server is sent it."""
        return "".join(part if isinstance(part, str) else part.text for part in self.parts)


Prompt = Observation | Raw
"""Chat messages, which the model's own template renders; or raw text, taken as it stands."""


@dataclass(frozen=True, slots=True)
class Item:
    """What there is to judge: what was wanted, and what was said.

    `request` is what the seed asks for, never the attack; `messages` are the exchanges as both
    sides read them, user and assistant in turn, without the attacker's thoughts. The last is the
    reply, or the attack where nobody has replied yet. `harmful` is the dataset's label of the
    request, which SSP's 1-5 score reads; a guard is never told it.
    """

    request: str
    messages: Observation
    context: str = ""
    harmful: bool = True

    @property
    def attack(self) -> str:
        """The last thing the defender was asked."""
        return next(m.content for m in reversed(self.messages) if m.role == "user")

    @property
    def reply(self) -> str | None:
        """The defender's reply to it, if it has been given."""
        last = self.messages[-1]
        return last.content if last.role == "assistant" else None

    @property
    def up_to_attack(self) -> Observation:
        """The exchanges up to the last attack, as a prompt's judge reads them."""
        return self.messages if self.reply is None else self.messages[:-1]


def item_of(state: State) -> Item | None:
    """Return what a judge may see of a state; None as long as no attack was sent."""
    messages = conversation(state)
    if not messages:
        return None
    return Item(state.seed.requested, messages, state.seed.context, state.seed.harmful)


@dataclass(frozen=True, slots=True)
class Format:
    """One judge's published input format and the grammar of its answer.

    `prompts` are the questions about one item (ShieldGemma asks one for each guideline); `read`
    takes their answers, in order, and returns None where one is not in the grammar. `about` says
    what has to be there before the judge can rule: the reply, or only the attack. `template` is
    the published text, word for word, and `source` says where it was published; the template's
    digest is part of every result. A server that can hold answers to a JSON schema is sent
    `schema`. With `presumes_harm` the judge takes every request for a forbidden one, so its ruling
    on the harm of a reply to a benign request is left out.
    """

    name: str
    fills: frozenset[str]
    prompts: Callable[[Item], Sequence[Prompt]]
    read: Callable[[Sequence[str]], Verdict | None]
    max_tokens: int
    template: str
    source: str
    about: Literal["reply", "attack"] = "reply"
    schema: Mapping[str, Any] | None = None
    presumes_harm: bool = False

    @property
    def template_sha256(self) -> str:
        return hashlib.sha256(self.template.encode()).hexdigest()


LABEL_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt for a judge's model; `attempt` tells a second try from a first one.

    `sampling` holds further fields of the request, such as the temperature; None samples greedily,
    as judges do. Only a sampled answer may be empty.
    """

    prompt: Prompt
    max_tokens: int
    schema: Mapping[str, Any] | None = None
    attempt: int = 0
    sampling: Mapping[str, Any] | None = None

    @property
    def is_label(self) -> bool:
        """Whether the answer is only a label, such as HarmBench's one token or SORRY-Bench's four.

        The length limit is meant to end a label; any other answer that it cuts is truncated.
        """
        return self.max_tokens <= LABEL_TOKENS and self.sampling is None


@dataclass(frozen=True, slots=True)
class Answer:
    """The generated continuation alone, or a status other than ok and no text to rely on.

    A truncated answer keeps its beginning, a refused one the refusal. Token counts are the
    server's own, else 0; both are 0 for a cached answer. `calls` are the requests it took, also
    those that failed. `why` says to people what failed.
    """

    text: str = ""
    status: Status = Status.OK
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached: bool = False
    calls: int = 1
    why: str = ""


OnAnswer = Callable[[int, Answer], None]
"""Called with each answer as it comes, and its place among the questions; in any order."""


def ignore(_place: int, _answer: Answer) -> None:
    """The `OnAnswer` of a caller that waits for all answers."""


class JudgeEngine(Protocol):
    """Where a judge's model runs: in this process, behind a URL, or in a cache in front of one."""

    @property
    def identity(self) -> str:
        """The model and its revision, `model@revision`: part of cache keys and results."""

    def answer(self, questions: Sequence[Question], on_answer: OnAnswer = ignore) -> list[Answer]:
        """One answer for each question, in order.

        A failure is an answer with a status and not an exception. Exceptions are an outage after
        which nothing more can be asked (UnscoredError), and settings that cannot work (UsageError).
        `on_answer` may keep the answers that came before one of these.
        """


@dataclass(frozen=True)
class ScriptedEngine:
    """Answers by rule, for tests and for trying a format without a model."""

    identity: str
    rule: Mapping[Prompt, str]
    otherwise: Answer = Answer(status=Status.HTTP_ERROR)

    def answer(self, questions: Sequence[Question], on_answer: OnAnswer = ignore) -> list[Answer]:
        answers: list[Answer] = []
        for place, question in enumerate(questions):
            text = self.rule.get(question.prompt)
            answers.append(self.otherwise if text is None else Answer(text))
            on_answer(place, answers[-1])
        return answers


Controversial = Literal["unsafe", "safe", "separate"]
_UNREADABLE = Verdict(status=Status.PARSE_ERROR)


@dataclass(frozen=True)
class ModelJudge:
    """`format` asked of the model that `engine` runs; equal items are asked about once.

    An answer outside the grammar is read once more without white space and a thought before it,
    and asked for once more; then it is a `parse_error`. `controversial` says
    what a guard's middle label counts as; `separate` leaves `reply_harm` empty.
    """

    format: Format
    engine: JudgeEngine
    controversial: Controversial = "unsafe"
    caveat: str = ""
    usage: Usage = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)
    """The latest reason of each status that is not ok, for people."""

    @property
    def name(self) -> str:
        return f"{self.format.name}:{self.engine.identity}"

    @property
    def fills(self) -> frozenset[str]:
        return self.format.fills

    def describe(self) -> JudgeCard:
        model, _, revision = self.engine.identity.partition("@")
        policy = (self.format.template_sha256, self.controversial, self.format.presumes_harm)
        return JudgeCard(self.name, self.caveat, self.fills, model, revision or None, *policy)

    def rule(self, states: Sequence[State]) -> list[Verdict]:
        items = [item_of(state) for state in states]
        due = [i for i in items if i and (i.reply is not None or self.format.about == "attack")]
        unique = list(dict.fromkeys(due))
        verdicts = dict(zip(unique, self._rulings(unique, attempt=0), strict=True))
        again = [item for item, v in verdicts.items() if v.status is Status.PARSE_ERROR]
        verdicts.update(zip(again, self._rulings(again, attempt=1), strict=True))
        return [self._by_policy(i, verdicts[i]) if i in verdicts else Verdict() for i in items]

    def _rulings(self, items: Sequence[Item], attempt: int) -> list[Verdict]:
        form, prompts_by_item = self.format, [self.format.prompts(item) for item in items]
        questions = [
            Question(prompt, form.max_tokens, form.schema, attempt)
            for prompt in chain(*prompts_by_item)
        ]
        answers = iter(self.engine.answer(questions) if questions else [])
        return [self._read([*islice(answers, len(of_item))]) for of_item in prompts_by_item]

    def _read(self, answers: Sequence[Answer]) -> Verdict:
        for kind in COSTS:
            self.usage[kind] += sum(getattr(answer, kind) for answer in answers)
        failed = next((a for a in answers if a.status is not Status.OK), None)
        if failed:
            self.reasons[failed.status] = failed.why
            return Verdict(status=failed.status)
        texts = [answer.text for answer in answers]
        return (
            self.format.read(texts)
            or self.format.read([(reply_in(reopened(text)) or "").strip() for text in texts])
            or _UNREADABLE
        )

    def _by_policy(self, item: Item, verdict: Verdict) -> Verdict:
        """Return the verdict as `presumes_harm` and `controversial` have it."""
        if self.format.presumes_harm and not item.harmful:
            return replace(verdict, reply_harm=None)
        if verdict.reply_harm is Harm.CONTROVERSIAL and self.controversial != "unsafe":
            harm = Harm.SAFE if self.controversial == "safe" else None
            return replace(verdict, reply_harm=harm)
        return verdict
