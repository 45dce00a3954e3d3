"""A judge describes itself, wrappers delegate, and a verdict's way from HTTP to reward is short."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.judges.test_model_judge import asked, toy
from tests.table import magic
from tests.transport.server import Script, serving

import sparring
from sparring import FunctionJudge, KeywordJudge, Panel, UsageError
from sparring.judges.cache import Answers, Cached
from sparring.judges.http import Server
from sparring.judges.judge import describe, spent
from sparring.judges.model_judge import ModelJudge, ScriptedEngine
from sparring.judges.panel import Member, Wrapped
from sparring.judges.published import format_named
from sparring.transport.client import Client
from sparring.transport.guard import Address
from sparring.types import Harm, Status, Verdict

GUARD = ModelJudge(toy(), ScriptedEngine("model@abc", {}), "safe", caveat="Mind the moat.")
STATES = [asked("like so"), asked("no")]


def rule(state) -> Verdict:
    return Verdict(refused=state.moves[-1].completion.text == "no")


@dataclass
class Plain:
    """A user's judge: a class with a name, a caveat and fields, and nothing else."""

    name: str = "plain"
    caveat: str = ""
    fills: frozenset[str] = frozenset({"refused"})

    def rule(self, states):
        return [rule(state) for state in states]


def test_a_model_judges_card_has_model_revision_template_and_policy():
    card = describe(GUARD)
    assert card.to_json() == {
        "name": "toy:model@abc",
        "caveat": "Mind the moat.",
        "model": "model",
        "revision": "abc",
        "template_sha256": toy().template_sha256,
        "controversial": "safe",
    }
    assert set(card.identity()) == {"name", "fills", "template_sha256", "controversial"}


def test_a_panel_describes_its_members_and_a_wrapper_what_it_wraps():
    panel = Panel([Member(GUARD), Member(Plain(), frozenset({"refused"}))])
    wrapped = Wrapped(panel, panel.rule)
    assert describe(wrapped) == describe(panel)
    assert (wrapped.name, wrapped.caveat, wrapped.fills) == (
        "toy:model@abc + plain",
        "Mind the moat.",
        {"reply_harm", "refused"},
    )
    identity = describe(panel).identity()
    assert [member["takes"] for member in identity["members"]] == [["reply_harm"], ["refused"]]
    assert identity["members"][0]["controversial"] == "safe"
    assert [member["name"] for member in describe(panel).to_json()["members"]] == [
        "toy:model@abc",
        "plain",
    ]


def test_a_function_and_a_plain_class_are_judges():
    function = FunctionJudge(rule, {"refused"})
    assert function.name == "rule"
    for judge in (function, Plain()):
        assert [verdict.refused for verdict in judge.rule(STATES)] == [False, True]
        assert describe(judge).identity() == {"name": judge.name, "fills": ["refused"]}
        assert spent(Panel([Member(judge), Member(KeywordJudge())])) == {}
    with pytest.raises(UsageError, match="luck is no field"):
        FunctionJudge(rule, {"luck"})


USAGES = (
    '{"completion_tokens": 3, "prompt_tokens": ' + "9" * 4300 + "}",
    '{"prompt_tokens": 1e400}',
    '{"prompt_tokens": -1}',
    '{"prompt_tokens": true}',
    '{"prompt_tokens": [1]}',
    '"lots"',
    "[[[]]]",
)


@pytest.mark.parametrize("usage", USAGES)
def test_no_usage_that_a_server_makes_up_ends_a_run(usage):
    body = '{"choices": [{"message": {"content": "safe"}}], "usage": ' + usage + "}"
    with serving(Script(reply=lambda _: (200, {}, body.encode()))) as (url, _):
        judge = ModelJudge(toy(), Server(Client(Address(url)), "toy"))
        chat = ModelJudge(format_named("llama_guard_3"), judge.engine)
        for _ in range(3):
            assert chat.rule([STATES[0]])[0].status is Status.OK
    assert json.dumps(spent(chat))
    assert spent(chat)["prompt_tokens"] == 0


def test_from_the_http_reply_to_the_reward_at_most_8_files_are_entered(tmp_path):
    """Counted from the first line that reads the response; the nouns of types.py are not a step."""
    root, entered, began = Path(sparring.__file__).parent, [], []

    def watch(frame, event, _):
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(root):
            if path.name == "http.py" and frame.f_code.co_name == "read":
                began.append(True)
            name = str(path.relative_to(root))
            if began and name not in entered and name != "types.py":
                entered.append(name)

    answer = "Safety: Unsafe\nCategories: Violent\nRefusal: No"
    with serving(Script(answer=lambda _: answer)) as (url, _):
        server = Server(Client(Address(url)), "guard")
        engine = Cached(server, Answers(tmp_path / "answers.sqlite"), "qwen3guard")
        judge, game = ModelJudge(format_named("qwen3guard"), engine), magic(gate=False)
        sys.setprofile(watch)
        try:
            [verdict] = judge.rule([STATES[0]])
            assert game.returns(STATES[0].rule(verdict)) is None, "helpfulness is not filled"
        finally:
            sys.setprofile(None)
    assert verdict == Verdict(reply_harm=Harm.UNSAFE, refused=False)
    assert len(entered) <= 8, entered
    assert {"judges/http.py", "judges/published.py", "games/payoffs.py"} <= {*entered}, entered
