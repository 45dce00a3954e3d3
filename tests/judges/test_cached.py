"""A judge's answers are cached across failures, kills and processes."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.judges.test_model_judge import PAID, Recorder
from tests.transport.server import Script, serving, verdict

from sparring.judges.cache import Answers, Cached
from sparring.judges.http import Server
from sparring.judges.model_judge import Answer, Question, Raw, Untrusted
from sparring.transport.client import Client
from sparring.transport.guard import Address, Limits
from sparring.types import Message, SparringError, Status, UnscoredError

ROOT = Path(__file__).parents[2]
ASK = Question((Message("user", "open"),), 16, {"type": "object"})


def cached(tmp_path: Path, engine, key: str = "guard") -> Cached:
    return Cached(engine, Answers(tmp_path / "cache" / "answers.sqlite"), key)


def served(tmp_path: Path, url: str, **limits) -> Cached:
    client = Client(Address(url), limits=Limits(**{"timeout": 20, "first_pause": 0.02} | limits))
    return cached(tmp_path, Server(client, "toy"))


def chats(n: int) -> list[Question]:
    return [Question((Message("user", f"open vault {i}"),), 16) for i in range(n)]


def test_a_question_is_asked_once_and_then_known_even_to_a_new_process(tmp_path):
    engine = Recorder(Answer("unsafe", Status.OK, 7, 3))
    judge = cached(tmp_path, engine)
    assert judge.answer([ASK]) == [Answer("unsafe", Status.OK, 7, 3)]
    for again in (judge, cached(tmp_path, engine)):
        assert again.answer([ASK]) == [Answer("unsafe", cached=True, calls=0)]
    assert engine.questions == [ASK]


@pytest.mark.parametrize("status", [Status.OK, Status.TIMEOUT])
def test_equal_questions_of_one_call_are_asked_once_and_cost_once(tmp_path, status):
    first, answers = Answer("unsafe", status, 7, 3, calls=6), {}
    judge = cached(tmp_path, Recorder(first))
    other = Question((Message("user", "close"),), 16)
    assert judge.answer([ASK, other, ASK], answers.__setitem__) == [
        first,
        PAID,
        Answer("unsafe", status, calls=0, cached=status is Status.OK),
    ]
    assert [answers[place].text for place in range(3)] == ["unsafe", "safe", "unsafe"]


@pytest.mark.parametrize(
    "other",
    [
        replace(ASK, prompt=(Message("user", "close"),)),
        replace(ASK, prompt=(Message("assistant", "open"),)),
        replace(ASK, prompt=(Message("user", "op"), Message("user", "en"))),
        replace(ASK, prompt=Raw(("open",))),
        replace(ASK, prompt=Raw((Untrusted("open"),))),
        replace(ASK, schema={"type": "array"}),
        replace(ASK, schema=None),
        replace(ASK, max_tokens=17),
        replace(ASK, attempt=1),
    ],
)
def test_whatever_differs_in_a_question_makes_it_another_one(tmp_path, other):
    engine = Recorder()
    cached(tmp_path, engine).answer([ASK, other, replace(ASK, prompt=Raw((Untrusted("<s>"),)))])
    assert len(engine.questions) == 3, "trusted and untrusted text of the same letters are two"


def test_another_judge_template_model_or_revision_is_asked_anew(tmp_path):
    questions = []
    for key, identity in (("g:1", "toy"), ("g:2", "toy"), ("g:1", "toy@2"), ("g:1", "toy")):
        cached(tmp_path, engine := Recorder(identity=identity), key).answer([ASK])
        questions.append(len(engine.questions))
    assert questions == [1, 1, 1, 0]


def test_a_failure_is_never_kept(tmp_path):
    failed = [Answer(status=status, why="?") for status in Status if status is not Status.OK]
    judge = cached(tmp_path, Recorder(*failed))
    assert [judge.answer([ASK]) for _ in failed] == [[answer] for answer in failed]
    assert judge.answer([ASK]) == [PAID]
    assert len(judge.answers) == 1


def test_a_round_that_fails_half_way_loses_no_answer(tmp_path):
    asks = chats(60)
    with serving(Script(outage=(31, 999))) as (url, _):
        judge = served(tmp_path, url, concurrency=4, outage_seconds=0.4)
        with pytest.raises(UnscoredError):
            judge.answer(asks)
        assert len(judge.answers) == 30
    with serving(Script()) as (url, received):
        answers = served(tmp_path, url).answer(asks)
    assert [a.text for a in answers] == [verdict(ask.prompt[0].content) for ask in asks]
    assert (received.calls, sum(a.cached for a in answers)) == (30, 30)


def test_an_answer_a_deadline_kept_back_is_asked_for_again(tmp_path):
    asks = chats(200)
    with serving(Script(latency=0.1)) as (url, _):
        judge = served(tmp_path, url, concurrency=2, round_deadline=0.5)
        answers = judge.answer([*asks, asks[-1]])
    assert answers[-1].status is answers[-2].status is Status.TIMEOUT
    assert len(judge.answers) == sum(a.status is Status.OK for a in answers) < 200


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Answers:
    return Answers(tmp_path_factory.mktemp("shared") / "a.sqlite")


@given(text=st.text(st.characters(exclude_categories=()), max_size=30))
def test_any_text_comes_back_as_it_was(shared, text):
    shared.put(b"key", text)
    assert shared.get([b"key", b"other"]) == {b"key": text}


KEYS = [b"key%d" % i for i in range(2000)]


def filled(path: Path) -> Answers:
    answers = Answers(path)
    for key in KEYS:
        answers.put(key, key.decode() * 5)
    answers.close()
    return answers


def test_an_answer_that_is_not_what_was_written_is_missing(tmp_path):
    answers = filled(tmp_path / "a.sqlite")
    with sqlite3.connect(answers.path) as file:
        file.execute("update answers set text = '\"unsafe\"' where key = ?", [b"key1"])
    assert set(answers.get(KEYS)) == {*KEYS} - {b"key1"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"this was a cache once" * 500,
        lambda whole: b"\x00" * len(whole),
        lambda whole: whole[:5000],
        lambda whole: whole[:20],
        lambda whole: whole[:4096] + b"\xff" * (len(whole) - 4096),
    ],
    ids=["text", "zeros", "cut", "tiny", "overwritten"],
)
def test_a_damaged_file_is_set_aside_with_a_warning_and_work_goes_on(tmp_path, damage):
    path = tmp_path / "a.sqlite"
    filled(path)
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    answers = Answers(path)
    with pytest.warns(UserWarning, match=re.escape(str(path))):
        known = answers.get(KEYS)
    answers.put(b"new", "safe")
    assert all(text == key.decode() * 5 for key, text in known.items())
    assert Answers(path).get([b"new"]) == answers.get([b"new"]) == {b"new": "safe"}
    assert (tmp_path / "a.sqlite.damaged-1").read_bytes() == damaged


def test_a_second_damaged_file_does_not_replace_the_first(tmp_path):
    for text in (b"one", b"two"):
        (tmp_path / "a.sqlite").write_bytes(text * 400)
        Answers(tmp_path / "a.sqlite").put(b"k", "v")
        for end in ("-wal", "-shm"):
            (tmp_path / f"a.sqlite{end}").unlink(missing_ok=True)
    assert (tmp_path / "a.sqlite.damaged-1").read_bytes() == b"one" * 400
    assert (tmp_path / "a.sqlite.damaged-2").read_bytes() == b"two" * 400


def test_who_comes_late_to_a_damaged_file_leaves_the_new_one_alone(tmp_path, recwarn):
    path = tmp_path / "a.sqlite"
    filled(path)
    early, late = Answers(path), Answers(path)
    assert early.get(KEYS[:1]).keys() == late.get(KEYS[:1]).keys() == {b"key0"}
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    with pytest.warns(UserWarning, match="was set aside"):
        early.get(KEYS)
    early.put(b"new", "safe")
    assert late.get([*KEYS, b"new"]) == {b"new": "safe"}
    assert not recwarn.list
    assert not list(tmp_path.glob("*.damaged-2"))


def test_a_file_that_cannot_be_opened_is_an_error_that_names_it(tmp_path):
    (tmp_path / "a.sqlite").mkdir()
    with pytest.raises(SparringError, match=r"a\.sqlite: the cache of answers fails"):
        Answers(tmp_path / "a.sqlite").get([b"k"])


WRITER = """
import sys
from pathlib import Path
from sparring.judges.cache import Answers
path, name, n = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
answers = Answers(path)
for i in range(n):
    answers.put(f"{name}/{i}".encode(), f"{name} says {i}")
    answers.put(b"shared", "the same")
    print(i, flush=True)
"""


def test_processes_that_write_at_once_lose_nothing_even_where_one_is_killed(tmp_path):
    path = tmp_path / "a.sqlite"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def writer(name: str, n: int) -> subprocess.Popen:
        words = [sys.executable, "-W", "error::UserWarning", "-c", WRITER, str(path), name, str(n)]
        return subprocess.Popen(words, stdout=subprocess.PIPE, env=env, cwd=ROOT, text=True)

    writers = {name: writer(name, 400) for name in ("ann", "bob", "cid")}
    victim = writer("dot", 1_000_000)
    lines = [victim.stdout.readline() for _ in range(150)]
    victim.send_signal(signal.SIGKILL)
    lines += victim.stdout.readlines()
    victim.wait()
    for process in writers.values():
        process.communicate(timeout=60)
        assert process.returncode == 0
    answers = Answers(path)
    texts = answers.get([f"{name}/{i}".encode() for name in writers for i in range(400)])
    assert (len(texts), texts[b"bob/17"]) == (1200, "bob says 17")
    numbers = [int(line) for line in lines if line.endswith("\n")]
    assert len(answers.get([f"dot/{i}".encode() for i in numbers])) == len(numbers) >= 150
    assert answers.get([b"shared"]) == {b"shared": "the same"}
