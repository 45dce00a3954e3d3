"""An engine behind a cache: what was answered once, kept in one SQLite file, is not asked again."""

import hashlib
import json
import sqlite3
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import TypeVar

from filelock import FileLock

from sparring.judges.model_judge import Answer, JudgeEngine, OnAnswer, Question, Raw, ignore
from sparring.stats.rates import grouped
from sparring.types import SparringError, Status

T = TypeVar("T")
_BUSY = 60.0
"""Seconds to wait while another process writes."""
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR_SHORT_READ}
_OPEN = """
pragma journal_mode = wal;
pragma synchronous = normal;
create table if not exists answers (
    key blob primary key, text text not null, digest blob not null
) without rowid, strict
"""
_FIND = "select text, digest from answers where key = ?"


@dataclass(eq=False)
class Answers:
    """The file at `path`. A damaged one is set aside, with a warning.

    Every text has a digest: one that is not what was written counts as missing. A write is
    durable against the death of a process, not against that of the machine.
    """

    path: Path
    _open: sqlite3.Connection | None = field(default=None, init=False, repr=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def get(self, keys: Sequence[bytes]) -> Mapping[bytes, str]:
        """The texts there are."""

        def read(file: sqlite3.Connection) -> dict[bytes, str]:
            rows = ((key, row) for key in keys for row in file.execute(_FIND, [key]))
            return {k: json.loads(text) for k, (text, sha) in rows if sha == _digest(k, text)}

        return self._with(read)

    def put(self, key: bytes, text: str) -> None:
        """Keep a text; the last one wins."""
        escaped = json.dumps(text)  # SQLite takes no unpaired surrogates
        row = [key, escaped, _digest(key, escaped)]
        self._with(lambda file: file.execute("insert or replace into answers values (?,?,?)", row))

    def __len__(self) -> int:
        count = self._with(lambda file: file.execute("select count(*) from answers").fetchone())
        return int(count[0])

    def close(self) -> None:
        """Fold the journal into the file; it opens again when it is needed."""
        with self._lock:
            if self._open:
                self._open.close()
            self._open = None

    def _with(self, act: Callable[[sqlite3.Connection], T]) -> T:
        try:
            try:
                return self._once(act)
            except sqlite3.Error as error:
                code = getattr(error, "sqlite_errorcode", 0)  # its lowest byte is the kind of error
                if not {code, code & 0xFF} & _DAMAGED:
                    raise
                self.close()
                self._set_aside(error)
                return self._once(act)
        except (sqlite3.Error, OSError) as error:
            raise SparringError(f"{self.path}: the cache of answers fails: {error}") from error

    def _once(self, act: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            if self._open is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self._alone():
                    self._open = _connection(self.path)
            return act(self._open)

    def _set_aside(self, error: sqlite3.Error) -> None:
        """Rename the file and its journal, unless another process has been quicker."""
        with self._alone():
            if _sound(self.path):
                return
            before = [*self.path.parent.glob(f"{self.path.name}.damaged-*")]
            mark = f".damaged-{len(before) + 1}"
            for end in ("", "-wal", "-shm"):
                part = self.path.with_name(self.path.name + end)
                if part.exists():
                    part.rename(part.with_name(part.name + mark))
        warnings.warn(
            f"{self.path} is damaged ({error}) and was set aside as {self.path.name}{mark}; "
            "its answers are asked for again",
            stacklevel=2,
        )

    def _alone(self) -> FileLock:
        return FileLock(self.path.with_name(self.path.name + ".lock"), timeout=_BUSY)


def _connection(path: Path) -> sqlite3.Connection:
    """Autocommit; a write-ahead log, so that readers and a writer do not wait for each other."""
    file = sqlite3.connect(path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
    try:
        file.executescript(_OPEN)
    except sqlite3.Error:
        file.close()
        raise
    return file


def _sound(path: Path) -> bool:
    try:
        with closing(_connection(path)) as file:
            return bool(file.execute("pragma quick_check(1)").fetchone() == ("ok",))
    except sqlite3.Error:
        return False


def _digest(key: bytes, text: str) -> bytes:
    return hashlib.sha256(key + text.encode()).digest()


@dataclass(frozen=True)
class Cached:
    """`engine` with its ok answers kept in `answers`; equal questions of one call are asked once.

    A key is the SHA-256 of `judge_key` (the judge's name and its template's digest), the engine's
    identity and the whole question. Answers are kept as they come, so that a round which fails
    half-way loses none.
    """

    engine: JudgeEngine
    answers: Answers
    judge_key: str

    @property
    def identity(self) -> str:
        return self.engine.identity

    def answer(self, questions: Sequence[Question], on_answer: OnAnswer = ignore) -> list[Answer]:
        """As every engine. Of equal questions the first one counts what they cost."""
        places = grouped((self._key(question), place) for place, question in enumerate(questions))
        known = self.answers.get(list(places))
        due = [key for key in places if key not in known]

        def keep(number: int, answer: Answer) -> None:
            if answer.status is Status.OK:
                self.answers.put(due[number], answer.text)

        fresh = self.engine.answer([questions[places[key][0]] for key in due], keep) if due else []
        by_key = {key: Answer(text, cached=True, calls=0) for key, text in known.items()}
        by_key |= zip(due, fresh, strict=True)
        answers: dict[int, Answer] = {}
        for key, (first, *others) in places.items():
            cached = by_key[key].status is Status.OK
            free = replace(
                by_key[key], cached=cached, calls=0, prompt_tokens=0, completion_tokens=0
            )
            answers |= {first: by_key[key], **dict.fromkeys(others, free)}
        for place in range(len(questions)):
            on_answer(place, answers[place])
        return [answers[place] for place in range(len(questions))]

    def _key(self, question: Question) -> bytes:
        """Trusted and untrusted text with the same letters make two keys."""
        if isinstance(question.prompt, Raw):
            parts = question.prompt.parts
            prompt = [["raw", p] if isinstance(p, str) else ["untrusted", p.text] for p in parts]
        else:
            prompt = [[message.role, message.content] for message in question.prompt]
        judge = (self.judge_key, self.identity)
        whole = [judge, prompt, question.max_tokens, question.schema, question.attempt]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).digest()
