"""What is told of a file is counted right, and no request is in it."""

import json

import pytest
from tests.command import sparring_command
from tests.data.examples import PUBLISHED, TALE, VAULT, wild, written
from tests.hostile.corpus import ALL

from sparring.data.schemas import SCHEMAS
from sparring.data.tally import tally

ROWS = [
    {"id": "a", "text": VAULT, "harmful": "true", "category": "locks", "cluster": "one"},
    {"id": "a", "text": TALE, "harmful": "true", "category": "locks", "cluster": "one"},
    {"id": "b", "text": VAULT, "harmful": "false", "category": "", "cluster": "one"},
    {"id": "c", "text": "polish it", "harmful": "false", "category": "lamps", "cluster": ""},
    {"id": "c", "text": "polish it", "harmful": "false", "category": "lamps", "cluster": ""},
]


def test_labels_repeats_clusters_and_categories_are_counted(tmp_path):
    told = tally(written(tmp_path / "x.csv", ROWS))
    assert (told.seeds, told.harmful, told.benign) == (5, 2, 3)
    assert (told.repeated_ids, told.repeated_prompts) == (2, 2)
    assert (told.clusters, told.largest_cluster) == (2, 3)
    assert told.categories == {"locks": 2, "lamps": 2, "": 1}
    assert told.longest == len(TALE)
    assert told.with_goal == 0


def test_what_is_left_out_is_counted_by_why(tmp_path):
    _, _, row, _ = PUBLISHED[0]
    song = row | {"FunctionalCategory": "copyright"}
    told = tally(written(tmp_path / "x.csv", [row, song, song]))
    assert told.left_out == {"copyright (needs a hash judge)": 2}
    assert (told.seeds, told.with_goal) == (1, 1)


def test_show_tells_the_counts_and_never_a_request(tmp_path):
    rows = [wild(adversarial=f"{TALE} {n}", data_type="adversarial_harmful") for n in range(7)]
    path = written(tmp_path / "train.tsv", rows)
    told = sparring_command("data", "show", path)
    assert told.code == 0
    assert "WildJailbreak (train)" in told.text
    assert "7 harmful (100.0%), 0 benign" in told.text
    assert "1, the largest of 7" in told.text
    parsed = json.loads(sparring_command("data", "show", path, "--json").out)
    assert (parsed["seeds"], parsed["clusters"], parsed["schema"]) == (
        7,
        1,
        "WildJailbreak (train)",
    )
    shown = told.text + json.dumps(parsed)
    assert VAULT not in shown
    assert TALE not in shown


def test_list_names_every_schema():
    told = sparring_command("data", "list").out
    assert all(schema.name in told for schema in SCHEMAS)
    parsed = json.loads(sparring_command("data", "list", "--json").out)
    assert [row["name"] for row in parsed] == [schema.name for schema in SCHEMAS]


def test_validate_exits_2_with_the_file_and_line_of_what_is_wrong(tmp_path):
    good = written(tmp_path / "good.csv", ROWS)
    bad = tmp_path / "bad.csv"
    bad.write_bytes(good.read_bytes() + b"ragged\r\n")
    assert sparring_command("data", "validate", good).code == 0
    told = sparring_command("data", "validate", good, bad)
    assert told.code == 2
    assert f"{bad}:7: 1 cells where the header has 5" in told.text
    assert f"{good}: read as seeds: 5 seeds" in told.text


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
    told = sparring_command("data", "show", path)
    assert told.code == 0
    assert not [c for c in told.text if c != "\n" and (c < " " or "\x7f" <= c <= "\x9f")]
    assert len(told.text.splitlines()) <= 8 + 25
