"""Seeds of several files have ids of their own, and no request is there twice."""

import pytest
from tests.data.files import written

from sparring.data.readers import gathered
from sparring.types import UsageError


def file(folder, name, *rows):
    told = [{"id": i, "text": text, "harmful": harmful} for i, text, harmful in rows]
    return {"path": written(folder / name, told), "limit": None, "map": None}


def ids(seeds):
    return {seed.id: seed.text for seed in seeds}


def test_two_files_that_count_from_one_keep_all_their_seeds(tmp_path):
    gates = file(tmp_path, "gates.csv", (1, "open gate 1", True), (2, "open gate 2", True))
    lamps = file(tmp_path, "lamps.csv", (2, "polish lamp 2", False), (3, "polish lamp 3", False))
    seeds, notes = gathered([gates, lamps])
    assert ids(seeds) == {
        "1": "open gate 1",
        "2": "open gate 2",
        "lamps/2": "polish lamp 2",
        "3": "polish lamp 3",
    }
    assert f"{lamps['path']}: 1 ids are an earlier file's too; they got this file's name" in notes


def test_a_seed_that_an_earlier_file_has_is_left_out_and_counted(tmp_path):
    one = file(tmp_path, "a.csv", ("v", "open the vault", True), ("w", "open the well", True))
    two = file(tmp_path, "b.csv", ("v", "open the vault", True), ("x", "open the box", True))
    seeds, notes = gathered([one, two])
    assert ids(seeds) == {"v": "open the vault", "w": "open the well", "x": "open the box"}
    assert f"{two['path']}: 1 rows stand in an earlier file too, and were left out" in notes


def test_a_request_with_another_label_is_another_seed(tmp_path):
    one = file(tmp_path, "a.csv", ("v", "open the vault", True))
    two = file(tmp_path, "b.csv", ("v", "open the vault", False))
    assert [(s.id, s.harmful) for s in gathered([one, two])[0]] == [("v", True), ("b/v", False)]


def test_files_of_one_name_whose_ids_clash_cannot_be_told_apart(tmp_path):
    for name in "xyz":
        (tmp_path / name).mkdir()
    files = [file(tmp_path, f"{name}/a.csv", ("v", f"gate {name}", True)) for name in "xyz"]
    with pytest.raises(UsageError, match="the id 'a/v' occurs in an earlier file too"):
        gathered(files)


def test_limits_and_maps_are_each_files_own(tmp_path):
    rows = [{"q": f"open gate {n}"} for n in range(4)]
    mapped = {
        "path": written(tmp_path / "q.csv", rows),
        "limit": 3,
        "map": {"prompt": "q", "harmful": "true"},
    }
    plain = file(tmp_path, "a.csv", ("v", "open the vault", False))
    assert [s.text for s in gathered([mapped, plain])[0]] == [
        "open gate 0",
        "open gate 1",
        "open gate 2",
        "open the vault",
    ]
