"""The sign of life of long work: it says how far it is, and whoever watches shows that."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, int, int], None]
"""Receives what is being done, such as "sampling", how many parts of it are done, of how many."""
Phases = Callable[[str, int, int, str], None]
"""Receives the same of a whole phase, such as an exam, and a text to show beside it."""

BEGAN = time.monotonic()
"""When the program began, for how long it has been at work."""
SILENCE = 4.0
"""Seconds without a line, after which the work under way is shown again."""
_NOBODY: tuple[Listener, Phases] = (lambda *_: None, lambda *_: None)
_WATCHED = ContextVar("watched", default=_NOBODY)


def listener() -> Listener:
    """Whoever watches now, or one that hears nothing."""
    return _WATCHED.get()[0]


def beat(work: str, done: int, total: int) -> None:
    """Say that `done` of the `total` parts of some work are done; free where nobody watches."""
    listener()(work, done, total)


@contextmanager
def part(number: int, parts: int) -> Iterator[None]:
    """Let beats within the block count as one of several equal parts of the same work."""
    whole, phases = _WATCHED.get()
    with watched(
        lambda work, done, total: whole(work, number * total + done, parts * total), phases
    ):
        yield


def phase(name: str, done: int, total: int, text: str = "") -> None:
    """Say that `done` of the `total` steps of a phase are done, for a bar of its own."""
    _WATCHED.get()[1](name, done, total, text)


@contextmanager
def watched(listener: Listener, phases: Phases = lambda *_: None) -> Iterator[None]:
    """Pass every beat and phase within the block to those, which may raise to stop the work."""
    token = _WATCHED.set((listener, phases))
    try:
        yield
    finally:
        _WATCHED.reset(token)
