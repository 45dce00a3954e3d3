"""Whatever bytes a file holds, a reader answers with seeds or with an error that names the file."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sparring.data.readers import read, read_pool
from sparring.data.schemas import SCHEMAS
from sparring.types import UsageError

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl")
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
RECORDS = st.lists(JSONISH, max_size=3) | st.lists(SEEDISH, min_size=1, max_size=3)
CONTENT = st.one_of(
    st.binary(max_size=200),
    st.tuples(HEADERS, CELLS).map("\n".join).map(str.encode),
    RECORDS.map(json.dumps).map(str.encode),
    RECORDS.map(lambda told: "\n".join(map(json.dumps, told)).encode()),
)


def outcome(reader, path: Path) -> object:
    """What a reader made of a file, or its complaint."""
    try:
        return reader(path)
    except UsageError as error:
        return str(error)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("any")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(content=CONTENT, suffix=st.sampled_from(SUFFIXES))
@example(content=b'"', suffix=".csv")
@example(content=b"\xef\xbb\xbf", suffix=".jsonl")
@example(content=b'{"text":{},"harmful":0}', suffix=".jsonl")
@example(content=b'{"messages":[{"role":[]}]}', suffix=".jsonl")
@example(content=b"0.5", suffix=".json")
def test_any_bytes_are_seeds_or_a_usage_error_naming_the_file(folder, content, suffix):
    path = folder / f"any{suffix}"
    path.write_bytes(content)
    found = outcome(read, path)
    if isinstance(found, str):
        assert str(path) in found
    else:
        assert found.seeds
        assert all(seed.text.strip() for seed in found.seeds)
        assert len({seed.id for seed in found.seeds}) == len(found.seeds)
    demos = outcome(read_pool, path)
    assert str(path) in demos if isinstance(demos, str) else demos
