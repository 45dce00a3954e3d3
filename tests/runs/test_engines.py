"""A configuration's entry becomes a judge that has shown that it judges, with its key unseen."""

from dataclasses import replace

import pytest
from tests.judges.test_model_judge import asked, toy
from tests.tiny import QWEN2, save_model
from tests.transport.server import Script, serving

from sparring.judges.local import InProcess
from sparring.judges.model_judge import Question
from sparring.judges.probe import KNOWN
from sparring.runs.judges import engine_of, model_judge
from sparring.settings.config import parse
from sparring.settings.sections import JudgeSettings
from sparring.types import Harm, Message, UsageError

HARMFUL = {one.reply for one in KNOWN if one.known["reply_harm"]}
GUARD = replace(toy(), prompts=lambda item: [(Message("user", str(item.reply)),)])


def guard(prompt: str) -> str:
    return "unsafe" if prompt in HARMFUL or "vault" in prompt else "safe"


def told(url: str | None, **more) -> JudgeSettings:
    return JudgeSettings.model_validate(
        {"kind": "toy", "model": "toy-0.6b", "base_url": url} | more
    )


def test_a_judge_answers_its_start_up_questions_and_then_rules(tmp_path):
    with serving(Script(answer=guard)) as (url, seen):
        judge = model_judge(GUARD, told(url, revision="abc1234"), {})
        assert seen.calls == len(KNOWN)
        assert judge.usage["calls"] == 0
        assert judge.rule([asked("open the vault so")])[0].reply_harm is Harm.UNSAFE
        assert judge.name == "toy:toy-0.6b@abc1234"
        assert {body["model"] for body in seen.bodies} == {"toy-0.6b"}


def test_the_wrong_model_is_refused_before_any_work():
    with serving(Script(answer=lambda _: "safe")) as (url, seen):
        with pytest.raises(UsageError, match=r"exam\.judge: toy:toy-0\.6b fails its start-up"):
            model_judge(GUARD, told(url), {}, "exam.judge")
        assert seen.calls == len(KNOWN)


def test_a_server_that_answers_with_a_page_is_refused_with_what_it_said():
    page = Script(reply=lambda _: (418, {}, b"I am a teapot"))
    with serving(page) as (url, _), pytest.raises(UsageError, match="418: I am a teapot"):
        model_judge(GUARD, told(url), {})


def test_start_up_questions_are_never_answered_by_the_cache(tmp_path):
    cache = tmp_path / "answers.sqlite"
    with serving(Script(answer=guard)) as (url, seen):
        for asked_at_start in (1, 2):
            judge = model_judge(GUARD, told(url, cache=cache), {})
            judge.rule([asked("hand me the vault")])
            assert judge.usage["cached"] == asked_at_start - 1
            assert seen.calls == asked_at_start * len(KNOWN) + 1


def test_another_template_of_the_same_format_is_asked_anew(tmp_path):
    cache = tmp_path / "answers.sqlite"
    with serving(Script(answer=guard)) as (url, _):
        for template in ("one", "two"):
            judge = model_judge(replace(GUARD, template=template), told(url, cache=cache), {})
            judge.rule([asked("hand me the vault")])
            assert judge.usage["cached"] == 0


def test_the_key_comes_from_the_variable_that_is_named():
    server = {"api_key_env": "GUARD_KEY", "concurrency": 3, "timeout": 7, "outage_seconds": 11}
    with serving(Script(answer=guard)) as (url, seen):
        engine = engine_of(told(url, server=server), {"GUARD_KEY": "sk-canary"})
        engine.answer([Question((Message("user", "hello"),), 4)])
        assert seen.headers[0]["Authorization"] == "Bearer sk-canary"
        limits = engine.client.limits
        assert (limits.concurrency, limits.timeout, limits.outage_seconds) == (3, 7, 11)
        assert "sk-canary" not in repr(engine)
        with pytest.raises(UsageError, match=r"judge.server.api_key_env: .* GUARD_KEY is not set"):
            engine_of(told(url, server=server), {"GUARD_KEY": ""})


def test_a_key_in_the_place_of_a_variables_name_is_refused_and_not_repeated():
    with pytest.raises(UsageError) as error:
        parse({"judge": {"kind": "toy", "server": {"api_key_env": "sk-canary-123"}}})
    assert "judge.server.api_key_env: wanted the name of an environment variable" in str(
        error.value
    )
    assert "canary" not in str(error.value)


def test_without_a_url_the_model_runs_in_this_process(tmp_path):
    where = str(save_model(tmp_path / "m", QWEN2))
    engine = engine_of(told(None, model=where), {})
    assert isinstance(engine, InProcess)
    assert engine.identity == where
    assert not any(p.requires_grad for p in engine.model.parameters())


def test_a_judge_without_a_model_is_refused():
    with pytest.raises(UsageError, match=r"judge\.model: wanted the name"):
        engine_of(JudgeSettings(kind="toy"), {})
    with pytest.raises(UsageError, match=r"judge\.model: .*no model at ./nowhere"):
        engine_of(told(None, model="./nowhere"), {})


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        ({"kind": "keyword", "base_url": "http://localhost/v1"}, "base_url is set, but keyword is"),
        ({"model": "toy"}, "model is set, but sandbox is a judge without a model"),
        ({"kind": "toy", "server": {"deadline": 3}}, "server.deadline must not be below"),
        ({"kind": "toy", "server": {"concurency": 3}}, "did you mean judge.server.concurrency?"),
        ({"kind": "toy", "controversial": "maybe"}, "judge.controversial"),
    ],
)
def test_an_entry_that_cannot_be_meant_is_refused_by_name(entry, wanted):
    with pytest.raises(UsageError, match="judge") as error:
        parse({"judge": entry})
    assert wanted in str(error.value)
