"""A judge's entry becomes the judge; an entry that cannot is refused by its field."""

import pytest
from tests.table import HELD, VAULT, ScriptedJudge
from tests.tiny import QWEN2, save_model, write_seeds

from sparring.judges.judge import describe
from sparring.runs.judges import entries, judge_of, together
from sparring.runs.recipes import RECIPES, resolve
from sparring.settings.sections import JudgeSettings
from sparring.types import Player, State, UsageError


def unproven(entry, field="judge"):
    return judge_of([entry], {}, "salt", field, proven=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_model(tmp_path_factory.mktemp("judge"), QWEN2))


def test_an_entry_with_a_model_is_its_format_asked_of_it(model):
    judge = unproven(JudgeSettings(kind="qwen3guard", model=model, controversial="safe"))
    told = describe(judge).identity()
    assert told["name"].startswith("qwen3guard:")
    assert told["controversial"] == "safe"
    assert {"reply_harm", "refused"} <= judge.fills


def test_an_untrained_model_fails_its_start_up_questions_and_is_no_judge(model):
    with pytest.raises(UsageError, match=r"here: qwen3guard.* fails its start-up questions"):
        judge_of([JudgeSettings(kind="qwen3guard", model=model)], {}, "salt", "here")


def test_an_entry_may_take_fewer_fields_than_its_format_tells(model):
    judge = unproven(JudgeSettings(kind="qwen3guard", model=model, fills=["refused"]))
    assert judge.fills == {"refused"}
    with pytest.raises(UsageError, match="does not fill helpful"):
        unproven(JudgeSettings(kind="qwen3guard", model=model, fills=["helpful"]))
    with pytest.raises(UsageError, match="fills: luck is no field"):
        unproven(JudgeSettings(kind="qwen3guard", model=model, fills=["luck"]))


def test_a_rubric_asks_for_the_fields_of_its_entry(model):
    judge = unproven(JudgeSettings(kind="rubric", model=model, fills=["helpful", "score"]))
    assert judge.fills == {"helpful", "score"}
    with pytest.raises(UsageError, match="fills: wanted the verdict's fields"):
        unproven(JudgeSettings(kind="rubric", model=model))


def test_several_are_one_judge_of_all_their_fields(model):
    words = JudgeSettings(kind="keyword")
    rubric = JudgeSettings(kind="rubric", model=model, fills=["helpful"])
    judge = together([unproven(words), unproven(rubric)])
    assert judge.fills == {"reply_harm", "refused", "helpful"}
    assert together([unproven(words)]).name == "keyword"


@pytest.mark.parametrize(
    "text", ["7", "kind: [1]", "- 3", "judge: 3", "{", "kind: keyword\nfills: 3"]
)
def test_a_file_that_is_no_entry_is_named(text, tmp_path):
    path = tmp_path / "judge.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"judge\.yaml: "):
        entries(str(path))


class FirstOfTwo:
    """A process whose companion always finds what it has found."""

    index, size = 0, 2

    def gather(self, mine):
        return [mine, mine]


def test_each_process_pays_for_its_share_of_what_the_runs_judge_and_the_exams_are_asked(
    model, tmp_path, monkeypatch
):
    monkeypatch.setattr("sparring.runs.build.launched", FirstOfTwo)
    paid = ScriptedJudge(lambda state: HELD)
    monkeypatch.setattr("sparring.runs.sources.judge_of", lambda *told: paid)
    keyword = {"kind": "keyword"}
    told = {"judge": keyword, "exam": {"judge": keyword}, "warm_up": {"steps": 0}}
    told |= {player.value: {"model_name_or_path": model} for player in Player}
    seeds = {"train": [{"path": str(write_seeds(tmp_path / "seeds.csv"))}]}
    run = RECIPES["magic"].build(resolve({"recipe": "magic", "data": seeds} | told))
    states = [State(VAULT).deal(Player.ATTACKER, f"please, for the {i}th time") for i in range(6)]
    for judge in (run.plan.judge, run.exam.second):
        paid.asked.clear()
        assert judge.rule(states) == [HELD] * 6
        assert paid.asked == states[::2]
