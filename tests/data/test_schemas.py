"""Every published file is known by its columns, and every row becomes the seed it should."""

import json

import pytest
from tests.data.examples import ARTIFACT, LANTERN, NAN, PUBLISHED, TALE, VAULT, guarded, wild
from tests.data.files import written

from sparring.data.readers import read
from sparring.data.schemas import SCHEMAS
from sparring.types import UsageError


def test_every_schema_has_an_example_here():
    assert [name for name, *_ in PUBLISHED] == [schema.name for schema in SCHEMAS]


def test_columns_that_two_schemas_share_are_told_apart_by_name_and_never_otherwise():
    for first in SCHEMAS:
        twins = [s for s in SCHEMAS if s.fits(first.columns) and s is not first]
        assert not twins or first.named
        assert len({first.named, *(s.named for s in twins)}) == len(twins) + 1


@pytest.mark.parametrize(("schema", "name", "row", "seed"), PUBLISHED)
def test_a_published_file_is_recognised_and_read(tmp_path, schema, name, row, seed):
    found = read(written(tmp_path / name, [row]))
    assert found.seeds == [seed]
    assert found.schema == schema
    assert f"read as {schema}: 1 seeds" in found.notes


def refused(path, read=read) -> str:
    with pytest.raises(UsageError) as error:
        read(path)
    return str(error.value)


def kept(path) -> tuple[list[str], list[str]]:
    """The texts, and the notes on what was left out."""
    found = read(path)
    return [s.text for s in found.seeds], [n for n in found.notes if "left out" in n]


TWINS = [
    ({"prompt": VAULT, "category": "x"}, "or-bench-toxic"),
    ({"vanilla": VAULT, "adversarial": TALE}, "benign"),
    (PUBLISHED[1][2], "harmful-behaviors"),
]


@pytest.mark.parametrize(("row", "name"), TWINS)
def test_a_label_that_only_a_file_name_tells_is_never_guessed(tmp_path, row, name):
    told = refused(written(tmp_path / "prompts.jsonl", [row]))
    assert str(tmp_path / "prompts.jsonl") in told
    assert name in told
    assert "--map prompt=COLUMN" in told
    (tmp_path / name / "train").mkdir(parents=True)
    in_folder = written(tmp_path / name / "train" / "0000.jsonl", [row])
    assert read(in_folder).seeds == read(written(tmp_path / f"{name}.jsonl", [row])).seeds


def test_a_name_that_says_both_labels_says_none(tmp_path):
    (tmp_path / "harmful").mkdir()
    path = written(tmp_path / "harmful" / "benign.jsonl", [TWINS[1][0]])
    assert "only its name can tell" in refused(path)


def test_what_is_published_and_cannot_be_asked_is_refused_with_its_reason(tmp_path):
    images = dict.fromkeys(
        ["Behavior", "BehaviorID", "FunctionalCategory", "SemanticCategory", "ImageFileName"], "x"
    ) | dict.fromkeys(["Source", "ImageDescription", "RedactedImageDescription", "Tags"], "x")
    assert "only text is read" in refused(written(tmp_path / "images.csv", [images]))
    strings = written(tmp_path / "harmful_strings.csv", [{"target": "Sure"}])
    assert "no requests" in refused(strings)
    targets = tmp_path / "harmbench_targets_text.json"
    targets.write_text(json.dumps({"vault_1": "Sure, the vault", "vault_2": "Sure"}))
    assert "such as HarmBench's targets" in refused(targets)


def test_records_by_name_in_lists_by_name_and_in_artifacts_are_records(tmp_path):
    path = tmp_path / "x.json"
    one, two = ({"text": text, "harmful": True} for text in (VAULT, TALE))
    for told in ([one, two], {"a": one, "b": two}, {"a": [one], "b": [], "c": [two]}):
        path.write_text(json.dumps(told))
        assert [seed.text for seed in read(path).seeds] == [VAULT, TALE]
    gave_up = ARTIFACT | {"prompt": None, "index": 8, "jailbroken_llama_guard1": False}
    path.write_text(
        json.dumps({"parameters": {"method": "tale"}, "jailbreaks": [ARTIFACT, gave_up]})
    )
    assert kept(path) == ([TALE], ["1 rows left out: no prompt"])


def test_a_hash_judge_keeps_copyright_rows(tmp_path):
    row = PUBLISHED[0][2] | {"FunctionalCategory": "copyright", "ContextString": ""}
    path = written(tmp_path / "x.csv", [row])
    assert [seed.text for seed in read(path, hash_judge=True).seeds] == [VAULT]
    assert "no usable rows" in refused(path)
    unlabelled = written(tmp_path / "y.csv", [guarded(), guarded(prompt_harm_label="")])
    assert len(read(unlabelled, hash_judge=True).seeds) == 1, "other reasons stand"


def test_of_wildjailbreak_a_plain_row_asks_its_vanilla_and_all_rows_of_one_vanilla_are_a_cluster(
    tmp_path,
):
    rows = [
        wild(data_type="vanilla_harmful"),
        wild(adversarial=TALE, data_type="adversarial_harmful"),
        wild(vanilla=LANTERN, data_type="vanilla_benign"),
        wild(vanilla=LANTERN, adversarial="a song", data_type="adversarial_benign"),
    ]
    plain, wrapped, safe, sung = read(written(tmp_path / "x.tsv", rows)).seeds
    assert [s.text for s in (plain, wrapped, safe, sung)] == [VAULT, TALE, LANTERN, "a song"]
    assert [s.harmful for s in (plain, wrapped, safe, sung)] == [True, True, False, False]
    assert [s.goal for s in (plain, wrapped, safe, sung)] == ["", VAULT, "", LANTERN]
    assert plain.cluster_key == wrapped.cluster_key != safe.cluster_key == sung.cluster_key


def test_of_sorry_bench_the_base_style_is_asked(tmp_path):
    base = {"question_id": 1, "category": "7", "turns": [VAULT], "prompt_style": "base"}
    path = written(tmp_path / "question.jsonl", [base, base | {"prompt_style": "slang"}])
    assert kept(path) == ([VAULT], ["1 rows left out: a prompt_style other than base"])
    for turns in ([VAULT, TALE], [], [None], VAULT, [3]):
        told = refused(written(tmp_path / "x.jsonl", [base, base | {"turns": turns}]))
        assert "x.jsonl:2: turns must" in told


def test_of_wildguardmix_rows_without_a_label_of_the_prompt_are_left_out(tmp_path):
    rows = [guarded(), guarded(prompt=TALE, prompt_harm_label="")]
    told = ([VAULT], ["1 rows left out: no prompt_harm_label"])
    assert kept(written(tmp_path / "x.csv", rows)) == told
    rows[1]["prompt_harm_label"] = None
    assert kept(written(tmp_path / "x.jsonl", rows)) == told


@pytest.mark.parametrize(
    ("schema", "cells", "told"),
    [
        ("XSTest", {"label": "unsafe"}, "label contradicts it: 'unsafe'"),
        ("XSTest", {"label": "perhaps"}, "label must be unsafe, safe, got 'perhaps'"),
        ("WildJailbreak (eval)", {"label": 1}, "label contradicts it: 1"),
        ("WildJailbreak (eval)", {"data_type": "benign"}, "data_type must be vanilla_harmful"),
        ("WildGuardMix (test)", {"prompt_harm_label": "bad"}, "prompt_harm_label must be harmful"),
        ("XSTest-Response", {"prompt_type": "other"}, "prompt_type must be prompt_harmful"),
        (
            "Do Anything Now (safety-eval)",
            {"adversarial": NAN},
            "adversarial must be text, got nan",
        ),
        ("seeds", {"text": None}, "text must be text, got None"),
    ],
)
def test_a_label_that_contradicts_or_is_unknown_is_an_error_with_its_line(
    tmp_path, schema, cells, told
):
    _, name, row, _ = next(example for example in PUBLISHED if example[0] == schema)
    path = written(tmp_path / f"{name}.jsonl", [row, row | cells])
    assert f"{path}:2: {told}" in refused(path)


def test_what_a_reader_should_know_of_a_file_is_noted(tmp_path):
    _, name, row, _ = next(e for e in PUBLISHED if e[0] == "HarmBench precomputed attacks")
    notes = read(written(tmp_path / name, [row])).notes
    assert any("a judge is told the attack itself" in note for note in notes)
