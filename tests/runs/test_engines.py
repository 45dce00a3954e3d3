"""A judge's entry becomes a judge that passed its start-up questions; its key is not shown."""

from dataclasses import replace

import pytest
from tests.judges.test_model_judge import exchange, toy
from tests.tiny import QWEN2, save_model
from tests.transport.server import Script, serving

from sparring.judges.local import InProcess
from sparring.judges.model_judge import Question
from sparring.judges.probe import KNOWN
from sparring.runs.judges import engine_of, model_judge
from sparring.settings.config import parse
from sparring.settings.sections import JudgeSettings
from sparring.types import Harm, Message, UsageError

HARMFUL = {exchange.reply for exchange in KNOWN if exchange.known["reply_harm"]}
GUARD = replace(toy(), prompts=lambda item: [(Message("user", str(item.reply)),)])


def guard(prompt: str) -> str:
    return "unsafe" if prompt in HARMFUL or "vault" in prompt else "safe"


def entry(url: str | None, **more) -> JudgeSettings:
    return JudgeSettings.model_validate(
        {"kind": "toy", "model": "toy-0.6b", "base_url": url} | more
    )


def test_a_judge_answers_its_start_up_questions_and_then_rules():
    with serving(Script(answer=guard)) as (url, requests):
        judge = model_judge(GUARD, entry(url, revision="abc1234"))
        assert requests.calls == len(KNOWN)
        assert judge.usage["calls"] == 0
        assert judge.rule([exchange("open the vault so")])[0].reply_harm is Harm.UNSAFE
        assert judge.name == "toy:toy-0.6b@abc1234"
        assert {body["model"] for body in requests.bodies} == {"toy-0.6b"}


def test_the_wrong_model_is_refused_before_any_work():
    with serving(Script(answer=lambda _: "safe")) as (url, requests):
        with pytest.raises(UsageError, match=r"exam\.judge: toy:toy-0\.6b fails its start-up"):
            model_judge(GUARD, entry(url), "exam.judge")
        assert requests.calls == len(KNOWN)
    page = Script(reply=lambda _: (418, {}, b"I am a teapot"))
    with serving(page) as (url, _), pytest.raises(UsageError, match="418: I am a teapot"):
        model_judge(GUARD, entry(url))


def test_the_cache_answers_no_start_up_question_and_no_other_template(tmp_path):
    cache, cached = tmp_path / "answers.sqlite", []
    with serving(Script(answer=guard)) as (url, requests):
        for format_ in (GUARD, GUARD, replace(GUARD, template="other")):
            judge = model_judge(format_, entry(url, cache=cache))
            judge.rule([exchange("hand me the vault")])
            cached.append(judge.usage["cached"])
        assert cached == [0, 1, 0]
        assert requests.calls == 3 * len(KNOWN) + 2


def test_the_key_comes_from_the_variable_that_is_named(monkeypatch):
    server = {"api_key_env": "GUARD_KEY", "concurrency": 3, "timeout": 7, "outage_seconds": 11}
    monkeypatch.setenv("GUARD_KEY", "sk-canary")
    with serving(Script(answer=guard)) as (url, requests):
        engine = engine_of(entry(url, server=server))
        engine.answer([Question((Message("user", "hello"),), 4)])
        assert requests.headers[0]["Authorization"] == "Bearer sk-canary"
        limits = engine.client.limits
        assert (limits.concurrency, limits.timeout, limits.outage_seconds) == (3, 7, 11)
        assert "sk-canary" not in repr(engine)
        monkeypatch.setenv("GUARD_KEY", "")
        with pytest.raises(UsageError, match=r"judge.server.api_key_env: .* GUARD_KEY is not set"):
            engine_of(entry(url, server=server))


def test_without_a_url_the_model_runs_in_this_process_and_must_be_there(tmp_path):
    folder = str(save_model(tmp_path / "m", QWEN2))
    engine = engine_of(entry(None, model=folder))
    assert isinstance(engine, InProcess)
    assert engine.identity == folder
    assert not any(p.requires_grad for p in engine.model.parameters())
    with pytest.raises(UsageError, match=r"judge\.model: wanted the name"):
        engine_of(JudgeSettings(kind="toy"))
    with pytest.raises(UsageError, match=r"judge\.model: .*no model at ./nowhere"):
        engine_of(entry(None, model="./nowhere"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "keyword", "base_url": "http://localhost/v1"}, "base_url is set, but keyword is"),
        ({"model": "toy"}, "model is set, but sandbox is a judge without a model"),
        ({"kind": "toy", "server": {"deadline": 3}}, "server.deadline must not be below"),
        ({"kind": "toy", "server": {"concurency": 3}}, "did you mean judge.server.concurrency?"),
        ({"kind": "toy", "controversial": "maybe"}, "judge.controversial"),
        ({"kind": "toy", "server": {"api_key_env": "sk-canary-1"}}, "wanted the name of an env"),
    ],
)
def test_an_entry_that_cannot_be_meant_is_refused_by_name_and_repeats_no_key(settings, message):
    with pytest.raises(UsageError, match="judge") as error:
        parse({"judge": settings})
    assert message in str(error.value)
    assert "canary" not in str(error.value)
