"""A journal has every record exactly once, and drops one that was cut short."""

import json
import os

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sparring.store.files import Journal
from sparring.types import CorruptError, SparringError

text = st.text(st.characters(exclude_categories=()), max_size=30)
values = st.one_of(text, st.floats(allow_nan=False, allow_infinity=False))
records = st.lists(st.dictionaries(text, values, max_size=3))


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "rounds.jsonl")


@settings(max_examples=40, deadline=None)
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


def test_a_missing_file_has_no_records_and_appending_nothing_makes_none(journal):
    journal.append([])
    assert list(journal.rows()) == []
    assert not journal.path.exists()


def test_a_full_disk_leaves_no_part_of_a_record(journal, monkeypatch):
    journal.append([{"round": 0}])
    before = journal.path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SparringError, match=r"rounds\.jsonl: cannot be written"):
        journal.append([{"round": 1}])
    assert journal.path.read_bytes() == before


@pytest.mark.parametrize(
    "line", [b"{", b"3", b"null", b"[1]", b"\xff", b"[" * 100_000, b"9" * 5000]
)
def test_a_line_that_is_no_record_is_named(journal, line):
    journal.path.write_bytes(b'{"round": 0}\n' + line + b"\n")
    with pytest.raises(CorruptError, match=r"rounds\.jsonl:2: is not what was written"):
        list(journal.rows())


def test_two_records_with_one_key_are_refused(tmp_path):
    journal = Journal(tmp_path / "samples.jsonl", key=lambda row: row["place"])
    journal.append([{"place": 0}, {"place": 1}, {"place": 0}])
    with pytest.raises(CorruptError, match=r"samples\.jsonl:3: this record stands above already"):
        list(journal.rows())
    journal.path.write_text(json.dumps({"spot": 1}) + "\n")
    with pytest.raises(CorruptError, match=r"samples\.jsonl:1: is not what was written"):
        list(journal.rows())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(text, values, max_size=3), min_size=1, max_size=4), st.data())
def test_a_keyed_record_that_was_changed_later_is_named(tmp_path_factory, rows, data):
    path = tmp_path_factory.mktemp("eval") / "samples.jsonl"
    journal = Journal(path, key=lambda row: row["place"])
    rows = [{**row, "place": place} for place, row in enumerate(rows)]
    journal.append(rows)
    assert list(journal.rows()) == rows
    lines = path.read_bytes().splitlines(keepends=True)
    at = data.draw(st.integers(0, len(lines) - 1))
    changed = {**json.loads(lines[at]), data.draw(text): "other"}
    assume(changed != json.loads(lines[at]) and "sha256" in changed)
    path.write_bytes(
        b"".join([*lines[:at], json.dumps(changed).encode() + b"\n", *lines[at + 1 :]])
    )
    with pytest.raises(CorruptError, match=rf"samples\.jsonl:{at + 1}: is not what was written"):
        list(journal.rows())


def test_records_of_an_older_version_have_no_digests(tmp_path):
    journal = Journal(tmp_path / "samples.jsonl", key=lambda row: row["place"])
    journal.path.write_text('{"place": 0}\n')
    journal.append([{"place": 1}])
    assert [row["place"] for row in journal.rows()] == [0, 1]
    journal.replace([row for row in journal.rows() if row["place"]])
    assert [row["place"] for row in journal.rows()] == [1]


def test_a_pipe_in_the_place_of_a_journal_is_refused_and_not_waited_for(journal):
    os.mkfifo(journal.path)
    with pytest.raises(CorruptError, match="no regular file"):
        list(journal.rows())
