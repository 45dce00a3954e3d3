"""Which checkpoints stay and which are deleted, and the order in which they become durable."""

import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.store.checkpoints import Checkpoints
from sparring.store.files import dumps, write_atomic
from sparring.types import SparringError, UsageError

any_text = st.text(st.characters(exclude_categories=()), max_size=40)


def fill(into: Path) -> None:
    (into / "attacker").mkdir()
    (into / "attacker" / "model.safetensors").write_bytes(b"weights")
    (into / "state.json").write_bytes(b"{}\n")


def keep_thirds(number: int) -> bool:
    return number % 3 == 0


def written(folder: Path, *numbers: int) -> Checkpoints:
    checkpoints = Checkpoints(folder)
    for number in numbers:
        checkpoints.write(number, fill, keep_thirds)
    return checkpoints


def folders(checkpoints: Checkpoints) -> list[int]:
    paths = (path for path in checkpoints.folder.iterdir() if path.is_dir())
    return sorted(int(path.name.removeprefix("round_")) for path in paths)


@pytest.fixture
def operations(monkeypatch):
    """What is made durable (its inode) and renamed (its new name), in order."""
    log, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr("os.fsync", lambda n: (log.append(os.fstat(n).st_ino), fsync(n)))
    monkeypatch.setattr("os.replace", lambda a, b: (log.append(Path(b).name), replace(a, b)))
    return log


def test_the_two_newest_stay_beside_what_is_kept(tmp_path):
    stayed = []
    for number in range(8):
        stayed.append(written(tmp_path, number).numbers())
    assert stayed[:4] == [[0], [0, 1], [0, 1, 2], [0, 2, 3]]
    assert stayed[4:] == [[0, 3, 4], [0, 3, 4, 5], [0, 3, 5, 6], [0, 3, 6, 7]]
    assert folders(Checkpoints(tmp_path)) == [0, 3, 6, 7]
    assert Checkpoints(tmp_path).newest(pytest.fail) == 7


def test_latest_lists_nothing_that_is_not_whole_at_any_rename_or_removal(tmp_path, monkeypatch):
    """Whoever kills the writer between two of these finds every listed checkpoint whole."""
    checkpoints, listed = written(tmp_path, 0, 1), []

    def checking(call):
        def check(*args, **kwargs):
            listed.append(checkpoints.numbers())
            for number in listed[-1]:
                checkpoints.verify(number)
            return call(*args, **kwargs)

        return check

    for name in ("replace", "rmdir", "unlink"):
        monkeypatch.setattr(os, name, checking(getattr(os, name)))
    for number in (2, 3, 4):
        checkpoints.write(number, fill, keep_thirds)
    assert min(map(len, listed)) >= 2
    assert (listed[0], listed[-1]) == ([0, 1], [0, 3, 4])


def test_every_byte_of_a_checkpoint_is_durable_before_its_name(tmp_path, operations):
    checkpoint = written(tmp_path, 5).path(5)
    paths = [*checkpoint.rglob("*"), checkpoint]
    assert {path.name for path in paths} >= {"MANIFEST.json", "model.safetensors"}
    before_its_name = operations[: operations.index("round_000005")]
    assert {path.stat().st_ino for path in paths} <= {*before_its_name}


def test_a_file_is_durable_before_it_replaces_the_old_one_and_its_folder_after(
    tmp_path, operations
):
    path = tmp_path / "run.json"
    write_atomic(path, b"{}")
    assert operations == [path.stat().st_ino, "run.json", tmp_path.stat().st_ino]


def test_a_write_that_fails_leaves_the_old_file_and_names_it(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    write_atomic(path, b"old")

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(SparringError, match="No space left") as caught:
        write_atomic(path, b"new")
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 1
    assert path.read_bytes() == b"old"


def test_a_fill_that_fails_costs_nothing_but_itself(tmp_path):
    def broken(into: Path) -> None:
        fill(into)
        raise RuntimeError("out of memory")

    checkpoints = written(tmp_path, 0, 1)
    with pytest.raises(RuntimeError, match="out of memory"):
        checkpoints.write(2, broken, keep_thirds)
    assert checkpoints.numbers() == [0, 1]
    checkpoints.sweep()
    checkpoints.write(2, fill, keep_thirds)
    assert checkpoints.newest(pytest.fail) == 2
    assert folders(checkpoints) == [0, 1, 2]


def test_sweep_removes_what_a_killed_writer_left_and_nothing_else(tmp_path):
    checkpoints = written(tmp_path, 0, 1)
    for name in ("round_000002.tmp-71", "round_000002"):
        (tmp_path / name).mkdir()
        fill(tmp_path / name)
    (tmp_path / "latest.tmp-71").write_bytes(b"{")
    (tmp_path / "notes.txt").write_text("the user's own")
    checkpoints.sweep()
    assert folders(checkpoints) == [0, 1]
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["latest", "notes.txt"]
    assert checkpoints.newest(pytest.fail) == 1


def test_a_checkpoint_is_found_by_its_number_or_as_the_newest_and_rewind_forgets_later_ones(
    tmp_path,
):
    checkpoints = written(tmp_path / "vault" / "checkpoints", 0, 4, 5)
    assert [checkpoints.at(number) for number in (0, 4, None)] == [0, 4, 5]
    with pytest.raises(UsageError, match=r"vault: no checkpoint after 7 .* one of \[0, 4, 5\]"):
        checkpoints.at(7)
    checkpoints.rewind(4)
    assert checkpoints.numbers() == folders(checkpoints) == [0, 4]
    none = Checkpoints(tmp_path / "gate" / "checkpoints")
    assert none.newest(pytest.fail) is None
    for number in (None, 0, 7):
        with pytest.raises(UsageError, match="gate: no checkpoint yet"):
            none.at(number)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_json_has_no_word_for_what_is_not_a_number(number):
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps({"loss": number})


finite = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(any_text, st.one_of(any_text, finite)))
def test_json_gives_every_text_and_every_float_back_from_one_line_of_ascii(values):
    line = dumps(values)
    assert json.loads(line) == values
    assert line.isascii()
    assert line.index(b"\n") == len(line) - 1
