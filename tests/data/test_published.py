"""The files as published read in full; their contents are counted and never shown."""

from collections import Counter
from pathlib import Path

import pytest

from sparring.data.readers import read

DATA = Path(__file__).parents[2].parent / "shared" / "data"


def published(name: str) -> Path:
    if not (DATA / name).is_file():
        pytest.skip(f"NOT TESTED: no {name} in {DATA}, so reading the published file is unproven")
    return DATA / name


def counts(name: str) -> tuple[Counter[str], list[str]]:
    """Numbers only: what an assertion holds is printed when it fails."""
    file = read(published(name))
    numbers = Counter("harmful" if seed.harmful else "benign" for seed in file.seeds)
    numbers["contextual"] = sum("\n\n---\n\n" in seed.text for seed in file.seeds)
    numbers["categories"] = len({seed.category for seed in file.seeds})
    numbers["ids"] = len({seed.id for seed in file.seeds})
    return numbers, [note for note in file.notes if "left out" in note]


def test_harmbench_test_has_320_rows_of_which_80_are_copyright_and_left_out():
    numbers, left_out = counts("harmbench_behaviors_text_test.csv")
    assert numbers["harmful"] == numbers["ids"] == 240
    assert (numbers["benign"], numbers["contextual"]) == (0, 81)
    assert left_out == ["80 rows left out: copyright (needs a hash judge)"]


def test_strongreject_small_has_60_harmful_rows():
    numbers, left_out = counts("strongreject_small_dataset.csv")
    assert numbers["harmful"] == numbers["ids"] == 60
    assert (numbers["benign"], left_out) == (0, [])


def test_xstest_has_250_safe_and_200_contrast_rows_of_18_types():
    numbers, left_out = counts("xstest_exaggerated_safety.json")
    assert (numbers["benign"], numbers["harmful"], numbers["ids"]) == (250, 200, 450)
    assert (numbers["categories"], left_out) == (18, [])
