"""Records are read one at a time in constant memory, and one that is too large is refused."""

import gzip
import json
import sys
import tracemalloc
from itertools import islice

import pytest
from tests.data.examples import VAULT, refused, written

from sparring.data import rows
from sparring.data.readers import read, seed_rows
from sparring.data.rows import MOST_DEPTH, records
from sparring.data.tally import tally

SEED = {"text": VAULT, "harmful": "true"}
streamed = pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])


def peak(work) -> int:
    """The most bytes allocated at once while `work` runs."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def many(path, n):
    texts = (f"open gate {k} of the vault, quietly" for k in range(n))
    return written(path, [SEED | {"text": text} for text in texts])


@streamed
def test_ten_times_the_rows_need_no_more_memory_and_a_tally_keeps_24_bytes_of_each(tmp_path, name):
    small, large = (many(tmp_path / f"{n}{name}", n) for n in (500, 5_500))

    def added(read_whole) -> int:
        read_whole(small)
        return peak(lambda: read_whole(large)) - peak(lambda: read_whole(small))

    assert added(lambda path: sum(1 for _ in seed_rows(path)[1])) < 20_000
    assert added(tally) / 5_000 < 24 * 4, "the array as it grows, and a part of it sorted"


def test_a_limit_reads_no_further_than_it_needs(tmp_path):
    path = many(tmp_path / "a.jsonl", 50)
    path.write_bytes(path.read_bytes() + b"torn\n")
    assert len(read(path, limit=50).seeds) == 50
    assert [s.text[:11] for s in read(path, limit=2).seeds] == ["open gate 0", "open gate 1"]
    assert f"{path}:51: not JSON" in refused(path)
    assert len(list(islice(records(path), 50))) == 50


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_a_packed_file_is_read_as_if_it_were_not(tmp_path, name):
    plain = written(tmp_path / name, [SEED, SEED | {"text": "climb the tower\nquietly"}])
    packed, raw = tmp_path / f"{name}.gz", plain.read_bytes()
    packed.write_bytes(gzip.compress(raw))
    assert read(packed).seeds == read(plain).seeds
    for broken in (gzip.compress(raw)[:-9], raw):
        packed.write_bytes(broken)
        message = refused(packed)
        assert message.startswith(f"{packed}:")
        assert "not gzip" in message


LONG = [SEED, SEED | {"text": "v\n" * 300}]


@pytest.mark.parametrize(
    ("name", "limit", "most", "message"),
    [
        ("a.csv", "MOST_RECORD", 500, ":3: a record of more than 500 characters"),
        ("a.json", "MOST_WHOLE", 500, ": more than 500 bytes of JSON"),
        ("a.jsonl", "MOST_LINE", 500, ":2: a line of more than 500 bytes"),
        ("a.csv", "MOST_LINE", 20, ":2: a line of more than 20 bytes"),
    ],
)
def test_a_line_a_record_and_a_json_file_have_a_limit(
    tmp_path, monkeypatch, name, limit, most, message
):
    path = written(tmp_path / name, LONG)
    assert len(read(path).seeds) == 2
    monkeypatch.setattr(rows, limit, most)
    assert f"{path}{message}" in refused(path)


def test_the_longest_line_that_is_allowed_is_read(tmp_path, monkeypatch):
    path = written(tmp_path / "a.jsonl", LONG)
    length = len(path.read_bytes().split(b"\n")[1]) + 1
    monkeypatch.setattr(rows, "MOST_LINE", length)
    assert len(read(path).seeds) == 2
    monkeypatch.setattr(rows, "MOST_LINE", length - 1)
    assert "a line of more than" in refused(path)


def test_a_file_that_unpacks_to_far_more_than_itself_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MOST_LINE", 2_000)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(SEED) + "\n").encode() * 100_000))
    message = refused(path)
    assert str(path) in message
    assert "it unpacks to more than" in message


@streamed
@pytest.mark.parametrize("length", [22_038, 200_000])
def test_long_cells_are_read_whole(tmp_path, name, length):
    path = written(tmp_path / name, [SEED | {"text": "v" * length}])
    assert len(read(path).seeds[0].text) == length


def nested(depth: int) -> str:
    """A record that is `depth` levels deep, itself one of them."""
    return f'{{"text": "{VAULT}", "harmful": true, "id": {"[" * (depth - 1)}{"]" * (depth - 1)}}}'


def test_nesting_has_a_limit_and_brackets_in_a_text_are_no_nesting(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(nested(MOST_DEPTH))
    assert len(read(path).seeds) == 1
    path.write_text(f"{nested(2)}\n{nested(MOST_DEPTH + 1)}")
    assert f"{path}:2: nested more than {MOST_DEPTH} deep" in refused(path)
    assert len(read(written(path, [SEED | {"text": "[" * 5_000}])).seeds) == 1


def test_parquet_is_read_with_its_types(tmp_path):
    arrow = pytest.importorskip("pyarrow", reason="NOT TESTED: no pyarrow, so Parquet is unproven")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    none = {"text": "None", "harmful": False, "id": None}
    table = arrow.Table.from_pylist([{"text": VAULT, "harmful": True, "id": 7}, none])
    parquet.write_table(table, path)
    vault, none = read(path).seeds
    assert (vault.text, vault.harmful, vault.id) == (VAULT, True, "7")
    assert (none.text, none.harmful) == ("None", False)
    path.write_bytes(path.read_bytes()[:-30])
    assert f"{path}: not Parquet" in refused(path)


def test_without_pyarrow_parquet_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'sparring[data]'" in refused(tmp_path / "a.parquet")
