"""The counts of a file are right and do not quote any request."""

import json

import pytest
from tests.command import sparring_command
from tests.data.examples import TALE, VAULT, wild, written
from tests.hostile.corpus import ALL

from sparring.data.schemas import SCHEMAS
from sparring.data.tally import tally

HEADER = ("id", "text", "harmful", "category", "cluster")
ROWS = [
    dict(zip(HEADER, row, strict=True))
    for row in (
        ("a", VAULT, "true", "locks", "one"),
        ("a", TALE, "true", "locks", "one"),
        ("b", VAULT, "false", "", "one"),
        *[("c", "polish it", "false", "lamps", "")] * 2,
    )
]


def test_labels_repeats_clusters_and_categories_are_counted(tmp_path):
    counts = tally(written(tmp_path / "x.csv", ROWS))
    assert (counts.seeds, counts.harmful, counts.benign) == (5, 2, 3)
    assert (counts.repeated_ids, counts.repeated_prompts) == (2, 2)
    assert counts.contradicting == 1
    assert (counts.clusters, counts.largest_cluster) == (2, 3)
    assert counts.categories == {"locks": 2, "lamps": 2, "": 1}
    assert (counts.longest, counts.with_goal) == (len(TALE), 0)


def test_show_prints_the_counts_and_never_a_request(tmp_path):
    rows = [wild(adversarial=f"{TALE} {n}", data_type="adversarial_harmful") for n in range(7)]
    path = written(tmp_path / "train.tsv", rows)
    shown = sparring_command("data", "show", path)
    assert shown.code == 0
    schema = "WildJailbreak (train)"
    for part in (schema, "7 harmful (100.0%), 0 benign", "1, the largest of 7"):
        assert part in shown.text
    as_json = sparring_command("data", "show", path, "--json").out
    parsed = json.loads(as_json)
    assert (parsed["seeds"], parsed["clusters"], parsed["schema"]) == (7, 1, schema)
    assert VAULT not in shown.text + as_json


def test_list_names_every_schema():
    listed = sparring_command("data", "list").out
    assert all(schema.name in listed for schema in SCHEMAS)
    parsed = json.loads(sparring_command("data", "list", "--json").out)
    assert [row["name"] for row in parsed] == [schema.name for schema in SCHEMAS]


def test_validate_exits_2_with_the_file_and_line_of_what_is_wrong(tmp_path):
    good = written(tmp_path / "good.csv", ROWS)
    bad = tmp_path / "bad.csv"
    bad.write_bytes(good.read_bytes() + b"ragged\r\n")
    assert sparring_command("data", "validate", good).code == 0
    command = sparring_command("data", "validate", good, bad)
    assert command.code == 2
    assert f"{bad}:7: 1 cells where the header has 5" in command.text
    assert f"{good}: read as seeds: 5 seeds" in command.text


def test_a_map_is_taken_on_the_command_line(tmp_path):
    path = written(tmp_path / "x.csv", [{"q": VAULT, "n": 3}, {"q": TALE, "n": 4}])
    assert sparring_command("data", "show", path).code == 2
    words = ("--map", "prompt=q,harmful=true", "--map", "id=n", "--json")
    parsed = json.loads(sparring_command("data", "show", path, *words).out)
    assert (parsed["harmful"], parsed["repeated_ids"]) == (2, 0)


@pytest.mark.parametrize("start", [0, 25, 50, 75, 100, 125, 150])
def test_no_hostile_category_moves_the_terminal(tmp_path, start):
    some = ALL[start : start + 25]
    path = tmp_path / "x.jsonl"
    rows = ({"text": f"gate {n}", "harmful": True, "category": c} for n, c in enumerate(some))
    path.write_text("\n".join(map(json.dumps, rows)))
    shown = sparring_command("data", "show", path)
    assert shown.code == 0
    assert not [c for c in shown.text if c != "\n" and (c < " " or "\x7f" <= c <= "\x9f")]
    assert len(shown.text.splitlines()) <= 8 + 25
