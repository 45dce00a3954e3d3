"""Every published file is recognised by its columns, and its rows become the right seeds."""

import gzip

import pytest
from tests.data.examples import (
    LANTERN,
    PUBLISHED,
    TALE,
    VAULT,
    guarded,
    refused,
    row_of,
    texts_and_omissions,
    wild,
    written,
)

from sparring.data.readers import read
from sparring.data.schemas import SCHEMAS


def test_every_schema_has_an_example_here_and_only_names_tell_apart_those_with_equal_columns():
    assert [name for name, *_ in PUBLISHED] == [schema.name for schema in SCHEMAS]
    for first in SCHEMAS:
        twins = [s for s in SCHEMAS if s.fits(first.columns) and s is not first]
        assert not twins or first.named
        assert len({first.named, *(s.named for s in twins)}) == len(twins) + 1


@pytest.mark.parametrize(("schema", "name", "row", "seed"), PUBLISHED)
def test_a_published_file_is_recognised_and_read(tmp_path, schema, name, row, seed):
    file = read(written(tmp_path / name, [row]))
    assert file.seeds == [seed]
    assert file.schema == schema
    assert f"read as {schema}: 1 seeds" in file.notes


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"prompt": VAULT, "category": "x"}, "or-bench-toxic"),
        ({"vanilla": VAULT, "adversarial": TALE}, "benign"),
        (row_of("JailbreakBench behaviors (harmful)"), "harmful"),
    ],
)
def test_a_label_that_only_a_file_name_tells_is_never_guessed(tmp_path, row, name):
    message = refused(written(tmp_path / "prompts.jsonl", [row]))
    for part in (str(tmp_path / "prompts.jsonl"), name, "--map prompt=COLUMN"):
        assert part in message
    in_folder = written(tmp_path / name / "train" / "0000.jsonl", [row])
    assert read(in_folder).seeds == read(written(tmp_path / f"{name}.jsonl", [row])).seeds
    if name == "benign":
        both = written(tmp_path / "harmful" / "benign.jsonl", [row])
        assert "only its name can tell" in refused(both)


OR_BENCH = [{"prompt": VAULT, "category": "x"}]


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        *((f"or{s}bench-toxic.csv", "OR-Bench (or-bench-toxic)") for s in "-_ "),
        ("OR_Bench_Toxic (1).csv", "OR-Bench (or-bench-toxic)"),
        ("or_bench-hard-1k.csv", "OR-Bench (or-bench-hard-1k)"),
        ("orbench_hard_1k.csv.gz", "OR-Bench (or-bench-hard-1k)"),
        ("my copy of or_bench_80k/train/0.csv", "OR-Bench (or-bench-80k)"),
        ("color-bench-toxic.csv", None),
        ("not-or-bench-toxic.csv", None),
        ("or-bench-toxic and or-bench-80k.csv", None),
    ],
)
def test_a_file_is_known_by_its_name_however_that_is_spelled(tmp_path, name, schema):
    path = written(tmp_path / name.removesuffix(".gz"), OR_BENCH)
    if name.endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress(path.read_bytes()))
    if schema:
        assert read(tmp_path / name).schema == schema
    else:
        assert "only its name can tell" in refused(path)


IMAGES = "Behavior, BehaviorID, FunctionalCategory, SemanticCategory, ImageFileName, Source, "
IMAGES += "ImageDescription, RedactedImageDescription, Tags"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([dict.fromkeys(IMAGES.split(", "), "x")], "only text is read"),
        ([{"target": "Sure"}], "no requests"),
        ({"vault_1": "Sure, the vault", "vault_2": "Sure"}, "such as HarmBench's targets"),
    ],
)
def test_a_published_file_without_requests_is_refused_with_its_reason(tmp_path, content, reason):
    assert reason in refused(written(tmp_path / "x.json", content))


TEXTS = [{"text": text, "harmful": True} for text in (VAULT, TALE)]
ARTIFACT = row_of("JailbreakBench artifacts")
GAVE_UP = ARTIFACT | {"prompt": None, "index": 8, "jailbroken_llama_guard1": False}


@pytest.mark.parametrize(
    ("content", "texts", "omissions"),
    [
        (TEXTS, [VAULT, TALE], []),
        (dict(zip("ab", TEXTS, strict=True)), [VAULT, TALE], []),
        ({"a": TEXTS[:1], "b": [], "c": TEXTS[1:]}, [VAULT, TALE], []),
        (
            {"parameters": {"method": "tale"}, "jailbreaks": [ARTIFACT, GAVE_UP]},
            *([TALE], ["1 rows left out: no prompt"]),
        ),
    ],
)
def test_records_by_name_in_lists_by_name_and_in_artifacts_are_records(
    tmp_path, content, texts, omissions
):
    assert texts_and_omissions(written(tmp_path / "x.json", content)) == (texts, omissions)


def test_a_plain_row_of_wildjailbreak_is_its_vanilla_and_rows_of_one_vanilla_are_a_cluster(
    tmp_path,
):
    rows = [
        wild(data_type="vanilla_harmful"),
        wild(adversarial=TALE, data_type="adversarial_harmful"),
        wild(vanilla=LANTERN, data_type="vanilla_benign"),
        wild(vanilla=LANTERN, adversarial="a song", data_type="adversarial_benign"),
    ]
    seeds = read(written(tmp_path / "x.tsv", rows)).seeds
    assert [(s.text, s.harmful, s.goal) for s in seeds] == [
        *((VAULT, True, ""), (TALE, True, VAULT)),
        *((LANTERN, False, ""), ("a song", False, LANTERN)),
    ]
    plain, wrapped, safe, sung = (s.cluster_key for s in seeds)
    assert plain == wrapped != safe == sung


def test_of_sorry_bench_the_base_style_is_read(tmp_path):
    base = row_of("SORRY-Bench")
    path = written(tmp_path / "question.jsonl", [base, base | {"prompt_style": "slang"}])
    omitted = ["1 rows left out: a prompt_style other than base"]
    assert texts_and_omissions(path) == ([VAULT], omitted)
    for turns in ([VAULT, TALE], [], [None], VAULT, [3]):
        path = written(tmp_path / "x.jsonl", [base, base | {"turns": turns}])
        assert "x.jsonl:2: turns must" in refused(path)


@pytest.mark.parametrize(("name", "missing"), [("x.csv", ""), ("x.jsonl", None)])
def test_of_wildguardmix_rows_without_a_label_of_the_prompt_are_left_out(tmp_path, name, missing):
    rows = [guarded(), guarded(prompt=TALE, prompt_harm_label=missing)]
    omitted = ["1 rows left out: no prompt_harm_label"]
    assert texts_and_omissions(written(tmp_path / name, rows)) == ([VAULT], omitted)


NAN = {"adversarial": float("nan")}


@pytest.mark.parametrize(
    ("schema", "cells", "message"),
    [
        ("XSTest", {"label": "unsafe"}, "label contradicts the label"),
        ("XSTest", {"label": "perhaps"}, "label must be unsafe or safe, got another text (7"),
        ("WildJailbreak (eval)", {"label": 1}, "label contradicts the label"),
        ("WildJailbreak (eval)", {"data_type": "benign"}, "data_type must be vanilla_harmful"),
        ("WildGuardMix (test)", {"prompt_harm_label": "bad"}, "prompt_harm_label must be harmful"),
        ("XSTest-Response", {"prompt_type": "other"}, "prompt_type must be prompt_harmful"),
        (
            "Do Anything Now (safety-eval)",
            NAN,
            "adversarial must be text, got a value of type float",
        ),
    ],
)
def test_a_label_that_contradicts_or_is_unknown_is_an_error_with_its_line(
    tmp_path, schema, cells, message
):
    row = row_of(schema)
    path = written(tmp_path / "x.jsonl", [row, row | cells])
    assert f"{path}:2: {message}" in refused(path)


def test_a_note_on_the_file_is_passed_on(tmp_path):
    notes = read(written(tmp_path / "x.json", [row_of("HarmBench precomputed attacks")])).notes
    assert any("a judge is told the attack itself" in note for note in notes)
