"""A file of samples holds each once, and never half of one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.table import after

from sparring.evals.folder import Samples, key_of, row_of, state_of
from sparring.types import CorruptError, Harm, Player, Seed, State, Status, Verdict


def row(place, **more):
    return {"model": "m", "set": "harmful/x", "place": place, "draw": 0, **more}


def test_a_torn_line_was_never_written(tmp_path):
    samples = Samples(tmp_path / "samples.jsonl")
    samples.append([row(0), row(1, text="open the vault " * 9)])
    whole = samples.path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        samples.path.write_bytes(whole[:cut])
        assert [one["place"] for one in samples.rows()] == [0]
        samples.mend()
        assert samples.path.read_bytes() == whole[:first]


def test_a_torn_line_longer_than_a_block_and_a_torn_first_line_are_dropped(tmp_path):
    samples = Samples(tmp_path / "samples.jsonl")
    samples.append([row(0)])
    whole = samples.path.read_bytes()
    samples.path.write_bytes(whole + b"x" * (2**20 + 7))
    samples.mend()
    assert samples.path.read_bytes() == whole
    samples.path.write_bytes(b"x" * (2**20 + 7))
    samples.mend()
    assert samples.path.read_bytes() == b""


def test_what_is_damaged_or_comes_twice_is_named_with_its_line(tmp_path):
    samples = Samples(tmp_path / "samples.jsonl")
    samples.append([row(0), row(1)])
    samples.append([row(1)])
    with pytest.raises(CorruptError, match=r"samples.jsonl:3: this sample stands above already"):
        list(samples.rows())
    for damage in (b"{}\n", b"[]\n", b"nothing\n", b"[" * 100_000 + b"\n"):
        samples.path.write_bytes(damage)
        with pytest.raises(CorruptError, match=r"samples.jsonl:1: is not what was written"):
            list(samples.rows())


def test_samples_can_be_forgotten(tmp_path):
    samples = Samples(tmp_path / "samples.jsonl")
    samples.append([row(0), row(1), row(2)])
    samples.without({key_of(row(1))})
    assert [one["place"] for one in samples.rows()] == [0, 2]


texts = st.text(st.characters(), max_size=40)


@given(
    said=texts,
    reply=texts,
    harm=st.none() | st.sampled_from(Harm),
    refused=st.none() | st.booleans(),
    status=st.sampled_from([status for status in Status if status is not Status.SKIPPED]),
    dealt=st.booleans(),
)
def test_a_game_is_read_back_as_it_was_whatever_was_said(
    tmp_path_factory, said, reply, harm, refused, status, dealt
):
    start = State(Seed("open the vault", True, "vault", cluster="doors"))
    start = start.deal(Player.ATTACKER, said) if dealt else after(start, said)
    verdict = Verdict(reply_harm=harm, refused=refused, status=status)
    state = after(start, reply).rule(verdict)
    samples = Samples(tmp_path_factory.mktemp("samples") / "samples.jsonl")
    samples.append([row_of(("m", "harmful/x", 3, 0), state, None)])
    [told] = samples.rows()
    assert state_of(told) == state
