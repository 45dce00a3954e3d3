"""The files as published read in full; their contents are counted and never shown."""

from pathlib import Path

import pytest

from sparring.data.readers import read

DATA = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.mark.parametrize(
    ("name", "harmful", "benign", "categories", "contextual", "left_out"),
    [
        (
            *("harmbench_behaviors_text_test.csv", 240, 0, 6, 81),
            ["80 rows left out: copyright (needs a hash judge)"],
        ),
        ("strongreject_small_dataset.csv", 60, 0, 6, 0, []),
        ("xstest_exaggerated_safety.json", 200, 250, 18, 0, []),
    ],
)
def test_a_published_file_has_the_rows_that_it_should(
    name, harmful, benign, categories, contextual, left_out
):
    """Numbers only: what an assertion holds is printed when it fails."""
    if not (DATA / name).is_file():
        pytest.skip(f"NOT TESTED: no {name} in {DATA}, so reading the published file is unproven")
    file = read(DATA / name)
    assert sum(seed.harmful for seed in file.seeds) == harmful
    assert len({seed.id for seed in file.seeds}) == len(file.seeds) == harmful + benign
    assert len({seed.category for seed in file.seeds}) == categories
    assert sum("\n\n---\n\n" in seed.text for seed in file.seeds) == contextual
    assert [note for note in file.notes if "left out" in note] == left_out
