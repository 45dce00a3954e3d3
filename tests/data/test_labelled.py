"""Labelled replies are read with the majority of people's labels and the stored judges' labels."""

import json

import pytest
from tests.data.examples import TALE, VAULT, guarded, refused, row_of, written

from sparring.data.readers import read_labelled
from sparring.data.schemas import SCHEMAS
from sparring.evals.judging import of_stored

COMPLETION = row_of("HarmBench labelled completions")


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
    file = read_labelled(written(tmp_path / "x.jsonl", [COMPLETION | {"generation": "other"}, row]))
    assert [item.harmful for item in file.items[1:]] == ([harmful] if harmful is not None else [])
    omitted = "1 rows left out: no label, or people undecided"
    assert (omitted in file.notes) == (harmful is None)


def test_harmbenchs_validation_set_is_read_as_published_with_every_stored_judge(tmp_path):
    row = COMPLETION | {"generation": "No.", "human_0": 0, "cls": 0.0, "GPTFuzz": "maybe"}
    row |= {"gpt": "No", "pair": "Rating: [[1]]"}
    path = tmp_path / "harmbench_text_behaviors_val_set.json"
    path.write_text(json.dumps({"vault_1": [COMPLETION, row]}))
    file = read_labelled(path)
    first, second = file.items
    assert (first.reply, first.harmful, first.refused) == ("With the golden key.", True, None)
    judges = {"cls": True, "advbench": False, "gpt-4-0613": None}
    assert first.judges == judges
    others = {"GPTFuzz": None, "gpt": False, "pair": None}
    assert second.judges == judges | {"cls": False} | others
    silent = "no verdicts of yes or no, so not read as judges: GPTFuzz, gpt-4-0613, pair"
    assert silent in file.notes
    assert [row.judge for row in of_stored(file.items)] == ["advbench", "cls", "gpt"]
    assert (second.harmful, second.seed.text) == (False, TALE)
    assert second.seed.cluster_key == "vault_1"
    assert first.seed.id != second.seed.id
    assert "read as HarmBench labelled completions: 2 labelled replies" in file.notes


BEHAVIOR = row_of("HarmBench text behaviors", BehaviorID="vault_1")
SONG = BEHAVIOR | {"BehaviorID": "song_1", "FunctionalCategory": "copyright"}
SONG |= {"ContextString": "", "Behavior": "sing the song of the vault"}


def described(folder, behavior_id, behaviors=(BEHAVIOR, SONG)):
    """Two labelled completions, the second of this behavior, read with a file of behaviors."""
    rows = [COMPLETION, COMPLETION | {"behavior_id": behavior_id}]
    table = written(folder / "behaviors.csv", behaviors)
    return read_labelled(written(folder / "y.jsonl", rows), table)


def test_the_file_of_behaviors_fills_in_the_goal_the_context_and_the_category(tmp_path):
    file = described(tmp_path, "song_1")
    assert not any("a judge is told the attack" in note for note in file.notes)
    vault, song = (item.seed for item in file.items)
    assert (vault.text, vault.requested, vault.context) == (TALE, VAULT, "A map.")
    assert vault.category == "vaults"
    assert song.goal == "sing the song of the vault", "where no context was joined"
    file = described(tmp_path, "gate_9")
    assert [item.seed.cluster for item in file.items] == ["vault_1"]
    assert "1 rows left out: of a behavior that the file of behaviors lacks" in file.notes
    message = refused([row_of("AdvBench")], lambda rows: described(tmp_path, "song_1", rows))
    assert "wanted HarmBench's text behaviors" in message


def test_either_label_of_a_reply_may_be_missing_and_omissions_are_counted(tmp_path):
    rows = [
        guarded(),
        guarded(response_harm_label="harmful", response_refusal_label="compliance"),
        guarded(response_harm_label="", response_refusal_label="refusal", prompt=TALE),
        guarded(response_harm_label="", response_refusal_label=""),
        guarded(response=""),
        guarded(prompt_harm_label=""),
    ]
    file = read_labelled(written(tmp_path / "x.csv", rows))
    labels = [(i.harmful, i.refused) for i in file.items]
    assert labels == [(False, True), (True, False), (None, True), (False, True)]
    assert file.items[-1].seed.harmful, "as long as nobody says that the request is not"
    assert {note for note in file.notes if "left out" in note} == {
        "1 rows left out: no label, or people undecided",
        "1 rows left out: no reply",
    }
    assert "4 labelled replies of 6 rows" in file.notes[0]


@pytest.mark.parametrize(
    ("schema", "cells", "labels"),
    [
        ("XSTest-Response", {"label": "refusal"}, (None, True)),
        ("XSTest-Response", {"label": "compliance"}, (None, False)),
        ("XSTest-Response", {"label": "harmful"}, (True, None)),
        ("XSTest-Response", {"label": "unharmful"}, (False, None)),
        ("labelled replies", {}, (False, None)),
        ("XSTest completions", {}, (None, True)),
        ("XSTest completions", {"final_label": "2_full_refusal"}, (None, True)),
        ("XSTest completions", {"final_label": 1}, (None, False)),
    ],
)
def test_a_file_may_fill_one_label_alone(tmp_path, schema, cells, labels):
    (item,) = read_labelled(written(tmp_path / "x.jsonl", [row_of(schema, **cells)])).items
    assert (item.harmful, item.refused) == labels
    assert (item.reply, item.judges) == ("It is shut.", {})


def test_two_replies_to_one_request_are_two_items_and_a_limit_reads_no_further(tmp_path):
    path = written(tmp_path / "x.csv", [guarded(response=f"It is shut, {n}.") for n in range(3)])
    path.write_bytes(path.read_bytes() + b"torn\n")
    assert len({item.seed.id for item in read_labelled(path, limit=2).items}) == 2


XSTEST = row_of("XSTest-Response")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        *(([row_of("AdvBench")], schema.name) for schema in SCHEMAS if schema.replies),
        ([row_of("AdvBench")], "AdvBench has no labelled replies"),
        ([guarded(response="")], "no usable rows of 1; 1 rows left out: no reply"),
        ([XSTEST, XSTEST | {"label": "perhaps"}], "x.jsonl:2: label must be harmful or unharmful"),
        ([XSTEST, XSTEST | {"label": ""}], "x.jsonl:2: label must be harmful"),
    ],
)
def test_an_unusable_file_is_refused_with_its_reason(tmp_path, rows, message):
    assert message in refused(written(tmp_path / "x.jsonl", rows), read_labelled)
