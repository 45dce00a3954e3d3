"""The journal: every record exactly once, and nothing of one that was torn."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.store.files import Journal
from sparring.types import CorruptError, SparringError

text = st.text(st.characters(exclude_categories=()), max_size=30)
records = st.lists(
    st.dictionaries(
        text, st.one_of(text, st.floats(allow_nan=False, allow_infinity=False)), max_size=3
    )
)


@settings(max_examples=100, deadline=None)
@given(st.lists(records, max_size=4), st.binary(max_size=9).filter(lambda torn: b"\n" not in torn))
def test_what_was_appended_comes_back_whatever_a_kill_left_behind(tmp_path_factory, batches, torn):
    journal = Journal(tmp_path_factory.mktemp("run") / "rounds.jsonl")
    for batch in batches:
        journal.append(batch)
        with journal.path.open("ab") as file:
            file.write(torn)
    expected = [record for batch in batches for record in batch]
    assert list(journal.rows()) == expected
    journal.append([{"last": 1}])
    assert journal.path.read_bytes().count(b"\n") == len(expected) + 1
    assert list(journal.rows()) == [*expected, {"last": 1}]


def test_a_torn_line_longer_than_a_block_is_dropped_whole(tmp_path):
    journal = Journal(tmp_path / "rounds.jsonl")
    journal.append([{"round": 0}])
    journal.path.open("ab").write(b"x" * (2**20 + 7))
    journal.append([{"round": 1}])
    assert [row["round"] for row in journal.rows()] == [0, 1]


def test_a_missing_file_has_no_records_and_appending_nothing_makes_none(tmp_path):
    journal = Journal(tmp_path / "rounds.jsonl")
    journal.append([])
    assert list(journal.rows()) == []
    assert not journal.path.exists()


def test_a_full_disk_leaves_no_part_of_a_record(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "rounds.jsonl")
    journal.append([{"round": 0}])
    before = journal.path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(SparringError, match=r"rounds\.jsonl: cannot be written"):
            journal.append([{"round": 1}])
    assert journal.path.read_bytes() == before


@pytest.mark.parametrize(
    "line", [b"{", b"3", b"null", b"[1]", b"\xff", b"[" * 100_000, b"9" * 5000]
)
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    path = tmp_path / "rounds.jsonl"
    path.write_bytes(b'{"round": 0}\n' + line + b"\n")
    with pytest.raises(CorruptError, match=r"rounds\.jsonl:2: is not what was written"):
        list(Journal(path).rows())


def test_two_records_with_one_key_are_refused(tmp_path):
    journal = Journal(tmp_path / "samples.jsonl", key=lambda row: row["place"])
    journal.append([{"place": 0}, {"place": 1}, {"place": 0}])
    with pytest.raises(CorruptError, match=r"samples\.jsonl:3: this record stands above already"):
        list(journal.rows())
    journal.path.write_text(json.dumps({"spot": 1}) + "\n")
    with pytest.raises(CorruptError, match=r"samples\.jsonl:1: is not what was written"):
        list(journal.rows())


def test_a_pipe_in_the_place_of_a_journal_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "rounds.jsonl")
    with pytest.raises(CorruptError, match="no regular file"):
        list(Journal(tmp_path / "rounds.jsonl").rows())
