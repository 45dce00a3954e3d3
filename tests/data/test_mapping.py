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
        (FULL | {"prompt": "Q"}, "map: prompt: no column 'Q'; did you mean q?"),
        (FULL | {"harmful": "perhaps"}, "map: harmful: no column 'perhaps'; it has 5 that may be"),
        (FULL | {"harmful": "kind"}, "x.csv:2: kind must be true or false, got another text (5 "),
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


@pytest.mark.parametrize("name", ["is_safe", "isSafe", "benign", "not_harmful", "flag"])
@pytest.mark.parametrize("mark", ["!", "not ", "! "])
def test_a_column_that_says_what_is_not_harmful_is_turned_round(tmp_path, name, mark):
    rows = [{"q": str(n), name: cell} for n, cell in enumerate(("true", "0", "Yes", "False"))]
    path = written(tmp_path / "x.csv", rows)
    seeds = read(path, columns=parsed([f"prompt=q,harmful={mark}{name}"])).seeds
    assert [seed.harmful for seed in seeds] == [False, True, False, True]


@pytest.mark.parametrize(
    ("name", "cell", "label", "message"),
    [
        ("is_safe", "true", "is_safe", "write harmful=!is_safe"),
        ("isBenign", 0, "isBenign", "write harmful=!isBenign"),
        ("non_toxic", "yes", "non_toxic", "write harmful=!non_toxic"),
        ("is_harmful", "1", "!is_harmful", "write harmful=is_harmful"),
        ("label", "unsafe", "!label", "label must be true or false"),
    ],
)
def test_labels_that_would_be_turned_round_unseen_are_refused(tmp_path, name, cell, label, message):
    path = written(tmp_path / "x.jsonl", [{"q": "open", name: cell}])
    columns = {"prompt": "q", "harmful": label}
    assert message in refused(path, lambda path: read(path, columns=columns))


@pytest.mark.parametrize(
    ("name", "cell", "harmful"),
    [("safety", "unsafe", True), ("is_safe", "benign", False), ("not_safe", "1", True)],
)
def test_a_word_means_what_it_says_whatever_its_column_is_called(tmp_path, name, cell, harmful):
    path = written(tmp_path / "x.csv", [{"q": "open", name: cell}])
    [seed] = read(path, columns={"prompt": "q", "harmful": name}).seeds
    assert seed.harmful is harmful
