"""Labelled replies: the people's majority, stored judges beside it, and nothing made up."""

import json

import pytest
from tests.data.examples import COMPLETION, PUBLISHED, TALE, VAULT, guarded
from tests.data.files import written

from sparring.data.labelled import Labelled, read_labelled
from sparring.data.schemas import SCHEMAS
from sparring.types import UsageError

KNOWN = [schema.name for schema in SCHEMAS if schema.replies]


def example(schema):
    return next(row for name, _, row, _ in PUBLISHED if name == schema)


def only(path, *more) -> Labelled:
    (item,) = read_labelled(path, *more).items
    return item


@pytest.mark.parametrize(
    ("humans", "harmful"),
    [
        ((1, 1, 1), True),
        ((1, 0, 1), True),
        ((0, 1, 0), False),
        ((0.0, 1.0, 0.0), False),
        ((1, None, None), True),
        (("1", "0", ""), None),
        ((None, None, None), None),
    ],
)
def test_people_are_followed_where_most_of_them_agree(tmp_path, humans, harmful):
    row = COMPLETION | dict(zip(("human_0", "human_1", "human_2"), humans, strict=True))
    path = written(tmp_path / "x.jsonl", [COMPLETION | {"generation": "other"}, row])
    found = read_labelled(path)
    assert [item.harmful for item in found.items[1:]] == ([harmful] if harmful is not None else [])
    left = "1 rows left out: no label, or people undecided"
    assert (left in found.notes) == (harmful is None)


def test_harmbenchs_validation_set_is_read_as_published_with_every_stored_judge(tmp_path):
    second = COMPLETION | {"generation": "No.", "human_0": 0, "cls": 0.0, "GPTFuzz": "maybe"}
    path = tmp_path / "harmbench_text_behaviors_val_set.json"
    path.write_text(json.dumps({"vault_1": [COMPLETION, second]}))
    found = read_labelled(path)
    one, two = found.items
    assert (one.reply, one.harmful, one.refused) == ("With the golden key.", True, None)
    assert one.judges == {"cls": True, "advbench": False, "gpt-4-0613": None}
    assert two.judges == {"cls": False, "advbench": False, "gpt-4-0613": None, "GPTFuzz": None}
    assert (two.harmful, two.seed.text, two.seed.cluster_key) == (False, TALE, "vault_1")
    assert one.seed.id != two.seed.id
    assert found.schema == "HarmBench labelled completions"
    assert "read as HarmBench labelled completions: 2 labelled replies" in found.notes


def test_the_file_of_behaviors_tells_the_goal_the_context_and_the_category(tmp_path):
    behavior = example("HarmBench text behaviors") | {"BehaviorID": "vault_1"}
    song = behavior | {"BehaviorID": "song_1", "FunctionalCategory": "copyright"}
    song |= {"ContextString": "", "Behavior": "sing the song of the vault"}
    behaviors = written(tmp_path / "behaviors.csv", [behavior, song])
    path = written(tmp_path / "x.jsonl", [COMPLETION, COMPLETION | {"behavior_id": "song_1"}])
    found = read_labelled(path, behaviors)
    assert not any("a judge is told the attack" in note for note in found.notes)
    seed = found.items[0].seed
    assert (seed.text, seed.requested, seed.context) == (TALE, VAULT, "A map.")
    assert seed.category == "vaults"
    assert found.items[1].seed.goal == "sing the song of the vault", "where no context was joined"
    unknown = written(tmp_path / "y.jsonl", [COMPLETION, COMPLETION | {"behavior_id": "gate_9"}])
    with pytest.raises(UsageError, match=r"y\.jsonl:2: no behavior 'gate_9'"):
        read_labelled(unknown, behaviors)
    with pytest.raises(UsageError, match="wanted HarmBench's text behaviors"):
        read_labelled(path, written(tmp_path / "z.csv", [{"goal": VAULT, "target": "Sure"}]))


def test_wildguardtest_labels_replies_and_refusals_and_keeps_what_one_of_them_says(tmp_path):
    rows = [
        guarded(),
        guarded(response_harm_label="harmful", response_refusal_label="compliance"),
        guarded(response_harm_label="", response_refusal_label="refusal", prompt=TALE),
        guarded(response_harm_label="", response_refusal_label=""),
        guarded(response=""),
        guarded(prompt_harm_label=""),
    ]
    found = read_labelled(written(tmp_path / "x.csv", rows))
    assert [(i.harmful, i.refused) for i in found.items] == [
        (False, True),
        (True, False),
        (None, True),
    ]
    left = {note for note in found.notes if "left out" in note}
    assert left == {
        "1 rows left out: no label, or people undecided",
        "1 rows left out: no reply",
        "1 rows left out: no prompt_harm_label",
    }


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ("refusal", (None, True)),
        ("compliance", (None, False)),
        ("harmful", (True, None)),
        ("unharmful", (False, None)),
    ],
)
def test_the_two_splits_of_xstest_response_fill_one_label_each(tmp_path, label, told):
    row = example("XSTest-Response") | {"label": label}
    item = only(written(tmp_path / "x.jsonl", [row]))
    assert (item.harmful, item.refused) == told


def test_an_unknown_label_is_an_error_with_its_line(tmp_path):
    row = example("XSTest-Response")
    path = written(tmp_path / "x.jsonl", [row, row | {"label": "perhaps"}])
    with pytest.raises(UsageError, match=r"x\.jsonl:2: label must be harmful, unharmful, refusal"):
        read_labelled(path)


def test_your_own_labelled_replies_are_read(tmp_path):
    item = only(written(tmp_path / "x.csv", [example("labelled replies")]))
    assert (item.reply, item.harmful, item.refused, item.judges) == ("It is shut.", False, None, {})


def test_two_replies_to_one_request_are_two_items(tmp_path):
    rows = [guarded(), guarded(response="With the golden key.")]
    found = read_labelled(written(tmp_path / "x.csv", rows))
    assert len({item.seed.id for item in found.items}) == 2


def test_no_more_is_read_than_was_asked_for(tmp_path):
    rows = [guarded(response=f"It is shut, {n}.") for n in range(3)]
    path = written(tmp_path / "x.csv", rows)
    path.write_bytes(path.read_bytes() + b"torn\n")
    assert len(read_labelled(path, limit=2).items) == 2


def test_a_file_without_labelled_replies_lists_those_that_have_them(tmp_path):
    path = written(tmp_path / "x.csv", [{"goal": VAULT, "target": "Sure"}])
    with pytest.raises(UsageError, match="AdvBench has no labelled replies") as error:
        read_labelled(path)
    assert all(name in str(error.value) for name in KNOWN)
    empty = written(tmp_path / "y.csv", [guarded(response="")])
    with pytest.raises(UsageError, match=r"no usable rows \(\{'no reply': 1\}\)"):
        read_labelled(empty)
