"""A judge's entry becomes a judge that passed its start-up questions, or is refused by name."""

from dataclasses import replace

import pytest
from tests.judges.test_model_judge import exchange, toy
from tests.table import HELD, VAULT, ScriptedJudge
from tests.tiny import QWEN2, save_model, write_seeds
from tests.transport.server import Script, serving

from sparring.judges.judge import describe
from sparring.judges.local import InProcess
from sparring.judges.model_judge import Question
from sparring.judges.probe import KNOWN
from sparring.runs.judges import engine_of, entries, judge_of, model_judge, together
from sparring.runs.recipes import RECIPES, resolve
from sparring.settings.sections import JudgeSettings
from sparring.types import Harm, Message, Player, State, UsageError

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


def test_without_a_url_the_model_runs_in_this_process_and_must_be_there(model):
    engine = engine_of(entry(None, model=model))
    assert isinstance(engine, InProcess)
    assert engine.identity == model
    assert not any(p.requires_grad for p in engine.model.parameters())
    with pytest.raises(UsageError, match=r"judge\.model: wanted the name"):
        engine_of(JudgeSettings(kind="toy"))
    with pytest.raises(UsageError, match=r"judge\.model: .*no model at ./nowhere"):
        engine_of(entry(None, model="./nowhere"))


def unproven(**entry):
    return judge_of([JudgeSettings(**entry)], {}, "salt", "judge", prove=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_model(tmp_path_factory.mktemp("judge"), QWEN2))


def test_an_entry_with_a_model_is_its_format_asked_of_it(model):
    judge = unproven(kind="qwen3guard", model=model, controversial="safe")
    identity = describe(judge).identity()
    assert identity["name"].startswith("qwen3guard:")
    assert identity["controversial"] == "safe"
    assert {"reply_harm", "refused"} <= judge.fills
    with pytest.raises(UsageError, match=r"here: qwen3guard.* fails its start-up questions"):
        judge_of([JudgeSettings(kind="qwen3guard", model=model)], {}, "salt", "here")


@pytest.mark.parametrize(
    ("kind", "fills", "message"),
    [
        ("qwen3guard", ["refused"], None),
        ("qwen3guard", ["helpful"], "does not fill helpful"),
        ("qwen3guard", ["luck"], "fills: luck is no field"),
        ("rubric", ["helpful", "score"], None),
        ("rubric", None, "fills: wanted the verdict's fields"),
    ],
)
def test_an_entry_may_take_some_of_the_fields_that_its_format_has(model, kind, fills, message):
    if message is None:
        assert unproven(kind=kind, model=model, fills=fills).fills == set(fills)
        return
    with pytest.raises(UsageError, match=message):
        unproven(kind=kind, model=model, fills=fills)


def test_several_are_one_judge_of_all_their_fields(model):
    words = unproven(kind="keyword")
    rubric = unproven(kind="rubric", model=model, fills=["helpful"])
    assert together([words, rubric]).fills == {"reply_harm", "refused", "helpful"}
    assert together([words]).name == "keyword"


@pytest.mark.parametrize(
    "text", ["7", "kind: [1]", "- 3", "judge: 3", "{", "kind: keyword\nfills: 3"]
)
def test_a_file_that_is_no_entry_is_named(text, tmp_path):
    path = tmp_path / "judge.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"judge\.yaml: "):
        entries(str(path))


class FirstOfTwo:
    """The first of two ranks; the other one always has the same results."""

    index, size = 0, 2

    def gather(self, value):
        return [value, value]


def test_each_process_pays_for_its_share_of_what_the_runs_judge_and_the_exams_are_asked(
    model, tmp_path, monkeypatch
):
    monkeypatch.setattr("sparring.runs.build.launched", lambda _: FirstOfTwo())
    paid = ScriptedJudge(lambda state: HELD)
    monkeypatch.setattr("sparring.runs.sources.judge_of", lambda *args: paid)
    keyword = {"kind": "keyword"}
    tree = {"judge": keyword, "exam": {"judge": keyword}, "warm_up": {"steps": 0}}
    tree |= {player.value: {"model_name_or_path": model} for player in Player}
    seeds = {"train": [{"path": str(write_seeds(tmp_path / "seeds.csv"))}]}
    run = RECIPES["magic"].build(resolve({"recipe": "magic", "data": seeds} | tree))
    states = [State(VAULT).deal(Player.ATTACKER, f"please, for the {i}th time") for i in range(6)]
    for judge in (run.plan.judge, run.exam.second):
        paid.states.clear()
        assert judge.rule(states) == [HELD] * 6
        assert paid.states == states[::2]
