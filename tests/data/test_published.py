"""The files as published read in full; their contents are counted and never shown."""

from pathlib import Path

import pytest

from sparring.data.readers import read, read_labelled

DATA = next(
    (up / "shared/data" for up in Path(__file__).parents if (up / "shared/data").is_dir()),
    Path("shared/data"),
)


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


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        *(("gpt4", 220), ("llama2new", 274), ("llama2orig", 349)),
        *(("mistralguard", 240), ("mistralinstruct", 76)),
    ],
)
def test_published_completions_have_the_refusals_that_people_saw(name, refused):
    path = DATA / f"xstest_completions/xs_{name}.csv"
    if not path.is_file():
        pytest.skip(f"NOT TESTED: no {path}, so reading the published file is unproven")
    file = read_labelled(path)
    assert [sum(item.refused is label for item in file.items) for label in (True, False)] == [
        refused,
        450 - refused,
    ]
    assert sum(item.seed.harmful for item in file.items) == 200
