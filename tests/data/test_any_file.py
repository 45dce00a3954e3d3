"""Whatever bytes a file holds, a reader answers with seeds or with an error that names the file."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.hostile.corpus import ALL

from sparring.data.pools import read_pool
from sparring.data.readers import read, read_labelled
from sparring.data.schemas import SCHEMAS
from sparring.data.tally import tally
from sparring.types import UsageError

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".csv.gz", ".jsonl.gz", ".parquet")
FIELDS = st.sampled_from(["text", "harmful", "id", "category", "messages", "role", "content"])
SCALARS = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=6)
JSONISH = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=4),
    max_leaves=12,
)
SEEDISH = st.fixed_dictionaries({"text": SCALARS, "harmful": st.booleans()})
HEADERS = st.sampled_from([",".join(sorted(schema.columns)) for schema in SCHEMAS])
CELLS = st.text(st.sampled_from('ab,"\n\r\t \x00\u2028{}[]:true1\ud7ff'), max_size=24)
WORDS = st.sampled_from(
    [
        *("open", "", "harmful", "benign", "adversarial_harmful", "contrast_x", "base", "1", "0"),
        *("refusal", "unharmful", "safe", "prompt_harmful", "unsafe", "None"),
    ]
)


@st.composite
def published(draw):
    """The name of a known file, and rows that have its columns with arbitrary values."""
    schema = draw(st.sampled_from(SCHEMAS))
    cell = WORDS | SCALARS | st.lists(WORDS, max_size=2)
    rows = st.fixed_dictionaries(dict.fromkeys(sorted(schema.columns | schema.optional), cell))
    return schema.named or "x", draw(st.lists(rows, min_size=1, max_size=3))


RECORDS = st.lists(JSONISH, max_size=3) | st.lists(SEEDISH, min_size=1, max_size=3)
CONTENT = st.one_of(
    st.binary(max_size=200),
    st.tuples(HEADERS, CELLS).map("\n".join).map(str.encode),
    RECORDS.map(json.dumps).map(str.encode),
    RECORDS.map(lambda rows: "\n".join(map(json.dumps, rows)).encode()),
)


def outcome(reader, path: Path) -> object:
    """What a reader returns for a file, or the usage error that it raises."""
    try:
        return reader(path)
    except UsageError as error:
        return str(error)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("any")


MANY = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@MANY
@given(content=CONTENT, suffix=st.sampled_from(SUFFIXES))
@example(content=b'"', suffix=".csv")
@example(content=b"\xef\xbb\xbf", suffix=".jsonl")
@example(content=b'{"text":{},"harmful":0}', suffix=".jsonl")
@example(content=b'{"messages":[{"role":[]}]}', suffix=".jsonl")
@example(content=b"0.5", suffix=".json")
def test_any_bytes_are_seeds_or_a_usage_error_naming_the_file(folder, content, suffix):
    path = folder / f"any{suffix}"
    path.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    check(path)


@MANY
@given(example=published(), whole=st.booleans())
def test_any_values_in_known_columns_are_seeds_or_a_usage_error_naming_the_file(
    folder, example, whole
):
    name, rows = example
    path = folder / f"{name}{'.json' if whole else '.jsonl'}"
    path.write_text(json.dumps(rows) if whole else "\n".join(map(json.dumps, rows)))
    check(path)


def check(path: Path) -> None:
    """Every reader returns valid seeds, or raises a usage error that names the file."""
    file, counts = outcome(read, path), outcome(tally, path)
    assert isinstance(counts, str) == isinstance(file, str)
    if not isinstance(file, str):
        assert file.seeds
        assert all(seed.text.strip() for seed in file.seeds)
        assert len({seed.id for seed in file.seeds}) == len(file.seeds) == counts.seeds
    for result in (file, outcome(read_pool, path), outcome(read_labelled, path)):
        assert str(path) in result if isinstance(result, str) else result


@pytest.mark.parametrize("text", ALL)
def test_every_hostile_text_is_read_as_it_stands_or_is_no_request(folder, text):
    row = {"text": text, "harmful": True, "id": text, "category": text, "cluster": text}
    path = folder / "hostile.jsonl"
    path.write_text(json.dumps(row))
    file = outcome(read, path)
    if not text.strip():
        assert file == f"{path}:1: the request is empty"
        return
    (seed,) = file.seeds
    assert (seed.text, seed.id, seed.category, seed.cluster) == (text, text, text, text)
