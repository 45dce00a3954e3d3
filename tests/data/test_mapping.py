"""Columns of an unknown file are read as the user's map says, and in no other way."""

import pytest
from tests.data.examples import refused, written

from sparring.data.readers import parsed, read
from sparring.types import Seed

ROWS = [
    {"q": "open the dragon vault", "bad": "1", "n": 7, "kind": "locks", "why": "gold"},
    {"q": "polish the lantern", "bad": "0", "n": 8, "kind": "", "why": ""},
]
FULL = {"prompt": "q", "harmful": "bad", "id": "n", "category": "kind", "goal": "why"}


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.json", "x.jsonl"])
def test_mapped_columns_become_seeds_and_the_others_are_ignored(tmp_path, name):
    file = read(written(tmp_path / name, ROWS), columns=FULL | {"cluster": "kind"})
    assert file.seeds == [
        Seed("open the dragon vault", True, "7", "locks", "gold", "", "locks"),
        Seed("polish the lantern", False, "8"),
    ]
    assert "prompt=q, harmful=bad" in file.notes[0]


@pytest.mark.parametrize(
    ("row", "harmful", "label"),
    [
        ({"q": "open"}, "true", True),
        ({"q": "open"}, "FALSE", False),
        ({"q": "open", "true": "0"}, "true", False),  # a column called true is that column
        ({"q": "open", "category": "locks"}, "false", False),
    ],
)
def test_one_label_may_hold_for_every_row(tmp_path, row, harmful, label):
    path = written(tmp_path / "x.csv", [row, row | {"q": "close"}])
    seeds = read(path, columns=parsed([f"prompt=q,harmful={harmful}"])).seeds
    assert [seed.harmful for seed in seeds] == [label, label]
    assert len({seed.id for seed in seeds}) == 2


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"prompt": "q"}, "map: wanted also: harmful"),
        ({"harmful": "true"}, "map: wanted also: prompt"),
        (FULL | {"label": "q"}, "map: no such field: label"),
        (FULL | {"prompt": "Q"}, "map: prompt: no column 'Q'; it has bad, kind, n, q, why"),
        (FULL | {"harmful": "perhaps"}, "map: harmful: no column 'perhaps'"),
        (FULL | {"harmful": "kind"}, "x.csv:2: kind must be true or false, got 'locks'"),
    ],
)
def test_a_map_that_does_not_fit_the_file_says_how(tmp_path, columns, message):
    path = written(tmp_path / "x.csv", ROWS)
    error = refused(path, lambda path: read(path, columns=columns))
    assert message in error
    assert str(path) in error


@pytest.mark.parametrize("text", ["prompt", "prompt=", "=q", "danger=q", "prompt=q,prompt=r"])
def test_a_map_in_another_form_is_refused(text):
    assert "wanted FIELD=COLUMN, each field once" in refused([text], parsed)


def test_a_map_is_one_word_or_several_and_a_column_may_hold_an_equals_sign():
    fields = {"prompt": "a=b", "harmful": "true", "id": "n"}
    assert parsed(["prompt = a=b ,harmful=true", "id=n"]) == fields
    assert parsed([]) == {}
