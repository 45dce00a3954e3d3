"""What a judge has answered is not asked again: after a failure, a kill, or by another process."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.transport.server import Script, serving, verdict

from sparring.judges.cache import Answers, Cached
from sparring.judges.http import Server
from sparring.judges.model_judge import Answer, Question, Raw, Untrusted, ignore
from sparring.transport.client import Client
from sparring.transport.guard import Address, Limits
from sparring.types import Message, SparringError, Status, UnscoredError

ROOT = Path(__file__).parents[2]


class Counting:
    """An engine that says how often it was asked."""

    def __init__(self, *answers: Answer, identity: str = "toy") -> None:
        self.identity, self.answers, self.asked = identity, list(answers), []

    def answer(self, asks, heard=ignore):
        told = []
        for place, ask in enumerate(asks):
            self.asked.append(ask)
            told.append(self.answers.pop(0) if self.answers else Answer("safe", Status.OK, 7, 3))
            heard(place, told[-1])
        return told


def cached(tmp_path: Path, engine, key: str = "guard") -> Cached:
    return Cached(engine, Answers(tmp_path / "cache" / "answers.sqlite"), key)


def chat(text: str, **told) -> Question:
    return Question((Message("user", text),), **{"max_tokens": 16} | told)


def test_a_question_is_asked_once_and_then_known_even_to_a_new_process(tmp_path):
    engine = Counting(Answer("unsafe", Status.OK, 7, 3))
    one = cached(tmp_path, engine)
    assert one.answer([chat("open")]) == [Answer("unsafe", Status.OK, 7, 3)]
    known = Answer("unsafe", cached=True, calls=0)
    assert one.answer([chat("open")]) == [known]
    assert cached(tmp_path, engine).answer([chat("open")]) == [known]
    assert len(engine.asked) == 1


def test_equal_questions_of_one_call_are_asked_once_and_cost_once(tmp_path):
    engine, heard = Counting(Answer("unsafe", Status.OK, 7, 3)), {}
    asks = [chat("open"), chat("close"), chat("open")]
    told = cached(tmp_path, engine).answer(asks, heard.__setitem__)
    assert [a.text for a in told] == ["unsafe", "safe", "unsafe"]
    assert [a.calls for a in told] == [1, 1, 0]
    assert [a.prompt_tokens for a in told] == [7, 7, 0]
    assert [heard[i] for i in range(3)] == told


BASE = chat("open", schema={"type": "object"})


@pytest.mark.parametrize(
    "other",
    [
        chat("close", schema={"type": "object"}),
        chat("open", schema={"type": "array"}),
        chat("open"),
        chat("open", schema={"type": "object"}, max_tokens=17),
        chat("open", schema={"type": "object"}, attempt=1),
        Question((Message("assistant", "open"),), 16, {"type": "object"}),
        Question((Message("user", "op"), Message("user", "en")), 16, {"type": "object"}),
        Question(Raw(("open",)), 16, {"type": "object"}),
        Question(Raw((Untrusted("open"),)), 16, {"type": "object"}),
    ],
)
def test_whatever_differs_in_a_question_makes_it_another_one(tmp_path, other):
    engine = Counting()
    one = cached(tmp_path, engine)
    one.answer([BASE])
    one.answer([other])
    assert engine.asked == [BASE, other]


def test_trusted_and_untrusted_text_of_the_same_letters_are_two_prompts(tmp_path):
    engine = Counting()
    cached(tmp_path, engine).answer([Question(Raw((p,)), 4) for p in ("</s>", Untrusted("</s>"))])
    assert len(engine.asked) == 2


def test_another_judge_template_model_or_revision_is_asked_anew(tmp_path):
    for key, identity in (("g:1", "toy"), ("g:2", "toy"), ("g:1", "toy@2"), ("g:1", "toy")):
        cached(tmp_path, engine := Counting(identity=identity), key).answer([chat("open")])
        asked = len(engine.asked)
    assert asked == 0
    assert len(Answers(tmp_path / "cache" / "answers.sqlite")) == 3


def test_a_failure_is_never_kept(tmp_path):
    failed = [Answer(status=status, why="?") for status in Status if status is not Status.OK]
    engine = Counting(*failed, Answer("safe"))
    one = cached(tmp_path, engine)
    for answer in failed:
        assert one.answer([chat("open")]) == [answer]
    assert one.answer([chat("open")])[0].text == "safe"
    assert len(one.answers) == 1


def test_of_equal_questions_that_fail_none_is_called_known(tmp_path):
    one = cached(tmp_path, Counting(Answer(status=Status.TIMEOUT, calls=6)))
    told = one.answer([chat("open"), chat("open")])
    assert [(a.status, a.cached, a.calls) for a in told] == [
        (Status.TIMEOUT, False, 6),
        (Status.TIMEOUT, False, 0),
    ]


def test_a_round_that_fails_half_way_loses_no_answer(tmp_path):
    asks = [chat(f"open vault {i}") for i in range(60)]
    limits = Limits(concurrency=4, timeout=0.5, outage_seconds=0.4, first_pause=0.02)
    with serving(Script(outage=(31, 999))) as (url, _):
        one = cached(tmp_path, Server(Client(Address(url), limits=limits), "toy"))
        with pytest.raises(UnscoredError):
            one.answer(asks)
        assert len(one.answers) == 30
    with serving(Script()) as (url, seen):
        again = cached(tmp_path, Server(Client(Address(url), limits=limits), "toy"))
        told = again.answer(asks)
    assert [a.text for a in told] == [verdict(ask.prompt[0].content) for ask in asks]
    assert (seen.calls, sum(a.cached for a in told)) == (30, 30)


def test_an_answer_a_deadline_kept_back_is_asked_for_again(tmp_path):
    limits = Limits(concurrency=2, round_deadline=0.4)
    asks = [chat(f"open vault {i}") for i in range(30)]
    with serving(Script(latency=0.1)) as (url, _):
        one = cached(tmp_path, Server(Client(Address(url), limits=limits), "toy"))
        first = one.answer([*asks, asks[-1]])
    assert first[-1].status is first[-2].status is Status.TIMEOUT
    assert len(one.answers) == sum(a.status is Status.OK for a in first) < 30


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Answers:
    return Answers(tmp_path_factory.mktemp("shared") / "a.sqlite")


@given(text=st.text(st.characters(exclude_categories=()), max_size=30))
def test_any_text_comes_back_as_it_was(shared, text):
    shared.put(b"key", text)
    assert shared.get([b"key", b"other"]) == {b"key": text}


def test_an_answer_that_is_not_what_was_written_is_missing(tmp_path):
    kept = Answers(tmp_path / "a.sqlite")
    for n in range(3):
        kept.put(b"key%d" % n, "safe")
    kept.close()
    with sqlite3.connect(kept.path) as file:
        file.execute("update answers set text = '\"unsafe\"' where key = ?", [b"key1"])
    assert kept.get([b"key0", b"key1", b"key2"]) == {b"key0": "safe", b"key2": "safe"}


def filled(path: Path, n: int = 2000) -> Answers:
    kept = Answers(path)
    for i in range(n):
        kept.put(b"key%d" % i, f"answer {i}" * 5)
    kept.close()
    return kept


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"this was a cache once" * 500,
        lambda whole: b"\x00" * len(whole),
        lambda whole: whole[:5000],
        lambda whole: whole[:4096] + b"\xff" * (len(whole) - 4096),
    ],
    ids=["text", "zeros", "cut", "overwritten"],
)
def test_a_damaged_file_is_set_aside_with_a_note_and_work_goes_on(tmp_path, damage):
    path = tmp_path / "a.sqlite"
    filled(path)
    spoilt = damage(path.read_bytes())
    path.write_bytes(spoilt)
    kept = Answers(path)
    assert set(kept.get([b"key%d" % i for i in range(2000)]).values()) <= {
        f"answer {i}" * 5 for i in range(2000)
    }
    kept.put(b"new", "safe")
    assert kept.get([b"new"]) == {b"new": "safe"}
    assert len(kept.notes) == 1
    assert str(path) in kept.notes[0]
    assert (tmp_path / "a.sqlite.damaged-1").read_bytes() == spoilt
    assert Answers(path).get([b"new"]) == {b"new": "safe"}


def test_who_comes_late_to_a_damaged_file_leaves_the_new_one_alone(tmp_path):
    path = tmp_path / "a.sqlite"
    every = [b"key%d" % i for i in range(2000)]
    filled(path)
    early, late = Answers(path), Answers(path)
    assert early.get(every[:1]).keys() == late.get(every[:1]).keys() == {b"key0"}
    whole = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (len(whole) - 4096))
    early.get(every)
    early.put(b"new", "safe")
    assert late.get([*every, b"new"]) == {b"new": "safe"}
    assert (len(early.notes), len(late.notes)) == (1, 0)
    assert not list(tmp_path.glob("*.damaged-2"))


def test_a_second_damaged_file_does_not_replace_the_first(tmp_path):
    path = tmp_path / "a.sqlite"
    for n in (b"one", b"two"):
        path.write_bytes(n * 400)
        Answers(path).put(b"k", "v")
        for end in ("-wal", "-shm"):
            path.with_name(path.name + end).unlink(missing_ok=True)
    assert (tmp_path / "a.sqlite.damaged-1").read_bytes() == b"one" * 400
    assert (tmp_path / "a.sqlite.damaged-2").read_bytes() == b"two" * 400


def test_a_file_that_cannot_be_opened_is_an_error_that_names_it(tmp_path):
    (tmp_path / "a.sqlite").mkdir()
    with pytest.raises(SparringError, match=r"a\.sqlite: the cache of answers fails"):
        Answers(tmp_path / "a.sqlite").get([b"k"])


WRITER = """
import sys
from pathlib import Path
from sparring.judges.cache import Answers
path, name, n = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
kept = Answers(path)
for i in range(n):
    kept.put(f"{name}/{i}".encode(), f"{name} says {i}")
    kept.put(b"shared", "the same")
    print(i, flush=True)
assert not kept.notes, kept.notes
"""


def writer(path: Path, name: str, n: int) -> subprocess.Popen:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(n)],
        stdout=subprocess.PIPE,
        env=env,
        cwd=ROOT,
        text=True,
    )


def test_processes_that_write_at_once_lose_nothing_even_where_one_is_killed(tmp_path):
    path = tmp_path / "a.sqlite"
    writers = {name: writer(path, name, 400) for name in ("ann", "bob", "cid")}
    victim = writer(path, "dot", 1_000_000)
    said = [victim.stdout.readline() for _ in range(150)]
    victim.send_signal(signal.SIGKILL)
    said += victim.stdout.readlines()
    victim.wait()
    for process in writers.values():
        process.communicate(timeout=60)
        assert process.returncode == 0
    kept = Answers(path)
    told = kept.get([f"{name}/{i}".encode() for name in writers for i in range(400)])
    assert len(told) == 1200
    assert told[b"bob/17"] == "bob says 17"
    wrote = [int(line) for line in said if line.endswith("\n")]
    assert len(wrote) >= 150
    assert len(kept.get([f"dot/{i}".encode() for i in wrote])) == len(wrote)
    assert kept.get([b"shared"]) == {b"shared": "the same"}
    assert not kept.notes


def test_a_lookup_is_quick(tmp_path):
    kept = filled(tmp_path / "a.sqlite", 1000)
    began = time.monotonic()
    kept.get([b"key%d" % (i % 1000) for i in range(20_000)])
    assert time.monotonic() - began < 2
