"""Seeds of several files have distinct ids, and no request occurs twice."""

from itertools import count

import pytest
from tests.data.examples import refused, written

from sparring.data.readers import gathered


@pytest.fixture
def file(tmp_path):
    """Writes a file of (id, text, harmful) in a folder of its own; gives the source."""
    folders = count()

    def write(name, *rows):
        folder = tmp_path / f"{next(folders)}"
        folder.mkdir()
        table = [dict(zip(("id", "text", "harmful"), row, strict=True)) for row in rows]
        return {"path": written(folder / name, table), "limit": None, "map": None}

    return write


def test_two_files_that_count_from_one_keep_all_their_seeds(file):
    gates = file("gates.csv", (1, "open gate 1", True), (2, "open gate 2", True))
    lamps = file("lamps.csv", (2, "polish lamp 2", False), (3, "polish lamp 3", False))
    seeds, notes = gathered([gates, lamps])
    assert {seed.id: seed.text for seed in seeds} == {
        "1": "open gate 1",
        "2": "open gate 2",
        "lamps/2": "polish lamp 2",
        "3": "polish lamp 3",
    }
    assert f"{lamps['path']}: 1 ids are an earlier file's too; they got this file's name" in notes


def test_a_seed_that_an_earlier_file_has_is_left_out_unless_its_label_differs(file):
    first = file("a.csv", ("v", "open the vault", True), ("w", "open the well", True))
    again = file("b.csv", ("v", "open the vault", True), ("x", "open the box", True))
    other = file("c.csv", ("v", "open the vault", False))
    seeds, notes = gathered([first, again, other])
    assert [(seed.id, seed.harmful) for seed in seeds] == [
        *(("v", True), ("w", True), ("x", True), ("c/v", False))
    ]
    assert f"{again['path']}: 1 rows stand in an earlier file too, and were left out" in notes


def test_files_of_one_name_whose_ids_clash_cannot_be_told_apart(file):
    files = [file("a.csv", ("v", f"gate {name}", True)) for name in "xyz"]
    assert "an id is in an earlier file of this name" in refused(files, gathered)


def test_limits_and_maps_are_each_files_own(file, tmp_path):
    path = written(tmp_path / "q.csv", [{"q": f"open gate {n}"} for n in range(4)])
    mapped = {"path": path, "limit": 3, "map": {"prompt": "q", "harmful": "true"}}
    seeds, _ = gathered([mapped, file("a.csv", ("v", "open the vault", False))])
    gates = [f"open gate {n}" for n in range(3)]
    assert [seed.text for seed in seeds] == [*gates, "open the vault"]
