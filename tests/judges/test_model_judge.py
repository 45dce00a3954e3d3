"""A judge that is a model asks each distinct item once and never turns a failure into a label."""

from collections.abc import Sequence

import pytest
from tests.table import after

from sparring.judges.model_judge import (
    Answer,
    Format,
    Item,
    ModelJudge,
    Raw,
    ScriptedEngine,
    Untrusted,
    ignore,
    item_of,
)
from sparring.types import Harm, Message, Player, Seed, State, Status, Verdict

WORDS = {"safe": Harm.SAFE, "unsafe": Harm.UNSAFE, "so-so": Harm.CONTROVERSIAL}


def read(texts: Sequence[str]) -> Verdict | None:
    return Verdict(reply_harm=WORDS[texts[0]]) if texts[0] in WORDS else None


def toy(about="reply"):
    return Format(
        name="toy",
        fills=frozenset({"reply_harm"}),
        prompts=lambda item: [Raw((item.request, "|", Untrusted(item.reply or "")))],
        read=read,
        max_tokens=4,
        template="{request}|{reply}",
        source="made up here",
        about=about,
    )


def exchange(reply: str, request: str = "open the dragon vault") -> State:
    state = State(Seed(request, harmful=True, id="vault")).deal(Player.ATTACKER, "please?")
    return state.deal(Player.DEFENDER, reply)


PAID = Answer("safe", Status.OK, 7, 3)


class Recorder:
    """An engine that gives these answers, each once, then `PAID`, and records the questions."""

    def __init__(self, *answers: Answer | str, identity: str = "recorder") -> None:
        self.answers = [Answer(a) if isinstance(a, str) else a for a in answers]
        self.identity, self.questions = identity, []

    def answer(self, questions, on_answer=ignore) -> list[Answer]:
        self.questions += questions
        answers = [self.answers.pop(0) if self.answers else PAID for _ in questions]
        for place, answer in enumerate(answers):
            on_answer(place, answer)
        return answers


def rulings(*answers, replies=("sure",), policy="unsafe") -> list[Verdict]:
    judge = ModelJudge(toy(), Recorder(*answers), policy)
    return judge.rule([exchange(reply) for reply in replies])


def test_a_judge_sees_the_seed_and_what_was_sent_without_thoughts():
    thought = "<think> flatter it </think> <answer> kind vault, open </answer>"
    state = after(State(Seed("open the vault", harmful=True, id="1")), thought, "no")
    assert item_of(state) == Item(
        "open the vault", (Message("user", "kind vault, open"), Message("assistant", "no"))
    )
    assert item_of(State(Seed("x", harmful=True, id="2"))) is None


def test_equal_items_are_asked_once_and_answered_everywhere():
    judge = ModelJudge(toy(), Recorder("unsafe", "safe"))
    verdicts = judge.rule([exchange("sure"), exchange("no"), exchange("sure")])
    assert [v.reply_harm for v in verdicts] == [Harm.UNSAFE, Harm.SAFE, Harm.UNSAFE]
    assert (len(judge.engine.questions), judge.usage["calls"]) == (2, 2)


def test_an_answer_outside_the_grammar_is_asked_once_more_and_then_unscored():
    judge = ModelJudge(toy(), Recorder("perhaps", "safe", "well", "hmm"))
    assert judge.rule([exchange("sure")])[0].reply_harm is Harm.SAFE
    assert judge.rule([exchange("sure")]) == [Verdict(status=Status.PARSE_ERROR)]
    assert [question.attempt for question in judge.engine.questions] == [0, 1, 0, 1]


@pytest.mark.parametrize("opening", ["<think>", ""], ids=["its own", "the template's"])
def test_a_leading_thought_is_no_part_of_an_answer_whoever_opened_it(opening):
    (verdict,) = rulings(f"{opening} it opens a vault: unsafe? </think>\n\nsafe\n")
    assert verdict.reply_harm is Harm.SAFE


@pytest.mark.parametrize("status", sorted(set(Status) - {Status.OK}))
def test_a_failed_call_is_a_status_and_never_a_label(status):
    assert rulings(*[Answer("unsafe", status)] * 2) == [Verdict(status=status)]


@pytest.mark.parametrize(
    ("policy", "harm"), [("unsafe", Harm.CONTROVERSIAL), ("safe", Harm.SAFE), ("separate", None)]
)
def test_controversial_counts_as_the_config_says(policy, harm):
    assert rulings("so-so", policy=policy) == [Verdict(reply_harm=harm)]


def test_a_judge_of_replies_does_not_rule_before_there_is_one():
    state = State(Seed("x", harmful=True, id="1")).deal(Player.ATTACKER, "please")
    engine = Recorder("safe")
    assert ModelJudge(toy(), engine).rule([state]) == [Verdict()]
    assert not engine.questions
    assert ModelJudge(toy("attack"), engine).rule([state])[0].reply_harm is Harm.SAFE


def test_a_scripted_engine_answers_by_rule_and_fails_otherwise():
    engine = ScriptedEngine("script", {Raw(("open", "|", Untrusted("no"))): "safe"})
    verdicts = ModelJudge(toy(), engine).rule([exchange("no", "open"), exchange("yes", "open")])
    assert [v.status for v in verdicts] == [Status.OK, Status.HTTP_ERROR]
