"""Checkpoints: which stay, what is swept, and in what order a name and its bytes become durable."""

import json
import math
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.store.checkpoints import Checkpoints
from sparring.store.files import dumps, write_atomic
from sparring.types import SparringError, UsageError


def fill(into: Path) -> None:
    (into / "attacker").mkdir()
    (into / "attacker" / "model.safetensors").write_bytes(b"weights")
    (into / "state.json").write_bytes(b"{}\n")


def keep_thirds(number: int) -> bool:
    return number % 3 == 0


def made(folder: Path, *numbers: int) -> Checkpoints:
    checkpoints = Checkpoints(folder)
    for number in numbers:
        checkpoints.write(number, fill, keep_thirds)
    return checkpoints


def folders(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.folder.iterdir() if path.is_dir())


def test_the_two_newest_stay_beside_what_is_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    stayed = []
    for number in range(8):
        checkpoints.write(number, fill, keep_thirds)
        stayed.append(checkpoints.numbers())
    assert stayed == [
        [0],
        [0, 1],
        [0, 1, 2],
        [0, 2, 3],
        [0, 3, 4],
        [0, 3, 4, 5],
        [0, 3, 5, 6],
        [0, 3, 6, 7],
    ]
    assert folders(checkpoints) == [f"round_00000{n}" for n in (0, 3, 6, 7)]
    assert checkpoints.newest(pytest.fail) == 7


def test_latest_lists_nothing_that_is_not_whole_at_any_rename_or_removal(tmp_path, monkeypatch):
    """Whoever kills the writer between two of these finds every listed checkpoint whole."""
    checkpoints, looked = made(tmp_path, 0, 1), []

    def looking(call):
        def look(*args, **kwargs):
            numbers = checkpoints.numbers()
            for number in numbers:
                checkpoints.verify(number)
            looked.append(numbers)
            return call(*args, **kwargs)

        return look

    monkeypatch.setattr("os.replace", looking(os.replace))
    monkeypatch.setattr("os.rmdir", looking(os.rmdir))
    monkeypatch.setattr("os.unlink", looking(os.unlink))
    for number in (2, 3, 4):
        checkpoints.write(number, fill, keep_thirds)
    assert min(map(len, looked)) >= 2
    assert looked[0] == [0, 1]
    assert looked[-1] == [0, 3, 4]


def test_every_byte_of_a_checkpoint_is_durable_before_its_name(tmp_path, monkeypatch):
    checkpoints, durable = Checkpoints(tmp_path), set()
    fsync, replace, published = os.fsync, os.replace, []

    def noted(handle):
        durable.add(os.fstat(handle).st_ino)
        fsync(handle)

    def checked(source, target):
        if Path(source).is_dir():
            inside = [*Path(source).rglob("*"), Path(source)]
            assert {path.stat().st_ino for path in inside} <= durable
            assert {path.name for path in inside} >= {"MANIFEST.json", "model.safetensors"}
            published.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr("os.fsync", noted)
    monkeypatch.setattr("os.replace", checked)
    checkpoints.write(5, fill, keep_thirds)
    assert published == ["round_000005"]


def test_a_file_is_durable_before_it_replaces_the_old_one_and_its_folder_after(
    tmp_path, monkeypatch
):
    order, fsync, replace = [], os.fsync, os.replace

    def noted(handle):
        order.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def replaced(source, target):
        order.append("replace")
        replace(source, target)

    monkeypatch.setattr("os.fsync", noted)
    monkeypatch.setattr("os.replace", replaced)
    write_atomic(tmp_path / "run.json", b"{}")
    assert order == ["file", "replace", "folder"]


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
    checkpoints = made(tmp_path, 0, 1)

    def broken(into: Path) -> None:
        fill(into)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        checkpoints.write(2, broken, keep_thirds)
    assert checkpoints.numbers() == [0, 1]
    checkpoints.sweep()
    checkpoints.write(2, fill, keep_thirds)
    assert checkpoints.newest(pytest.fail) == 2
    assert folders(checkpoints) == ["round_000000", "round_000001", "round_000002"]


def test_sweep_removes_what_a_killed_writer_left_and_nothing_else(tmp_path):
    checkpoints = made(tmp_path, 0, 1)
    before = folders(checkpoints)
    fill_into = [tmp_path / name for name in ("round_000002.tmp-71", "round_000002")]
    for folder in fill_into:
        folder.mkdir()
        fill(folder)
    (tmp_path / "latest.tmp-71").write_bytes(b"{")
    (tmp_path / "notes.txt").write_text("mine")
    checkpoints.sweep()
    assert folders(checkpoints) == before
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["latest", "notes.txt"]
    assert checkpoints.newest(pytest.fail) == 1


def test_rewind_forgets_the_later_ones_and_keeps_the_others(tmp_path):
    checkpoints = made(tmp_path, 3, 4, 5)
    checkpoints.rewind(4)
    assert checkpoints.numbers() == [3, 4]
    assert folders(checkpoints) == ["round_000003", "round_000004"]


def test_nothing_is_the_newest_of_nothing(tmp_path):
    assert Checkpoints(tmp_path / "checkpoints").newest(pytest.fail) is None


def test_a_checkpoint_is_the_one_asked_for_or_the_newest_and_what_is_missing_is_told(tmp_path):
    checkpoints = made(tmp_path / "vault" / "checkpoints", 0, 4, 5)
    assert [checkpoints.at(number) for number in (0, 4, None)] == [0, 4, 5]
    with pytest.raises(UsageError, match=r"vault: no checkpoint after 7 .* one of \[0, 4, 5\]"):
        checkpoints.at(7)
    for number in (None, 0, 7):
        with pytest.raises(UsageError, match="gate: no checkpoint yet"):
            Checkpoints(tmp_path / "gate" / "checkpoints").at(number)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_json_has_no_word_for_what_is_not_a_number(number):
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps({"loss": number})


anything = st.text(st.characters(exclude_categories=()), max_size=40)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(anything, st.one_of(anything, st.floats(allow_nan=False, allow_infinity=False)))
)
def test_json_gives_every_text_and_every_float_back_from_one_line_of_ascii(told):
    line = dumps(told)
    assert json.loads(line) == told
    assert line.isascii()
    assert line.index(b"\n") == len(line) - 1
