"""A judge's entry becomes the judge, or is refused with the name of its field."""

import pytest
from tests.table import HELD, VAULT, ScriptedJudge
from tests.tiny import QWEN2, save_model, write_seeds

from sparring.judges.judge import describe
from sparring.runs.judges import entries, judge_of, together
from sparring.runs.recipes import RECIPES, resolve
from sparring.settings.sections import JudgeSettings
from sparring.types import Player, State, UsageError


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
    words, rubric = (
        unproven(kind="keyword"),
        unproven(kind="rubric", model=model, fills=["helpful"]),
    )
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
