"""The sign of life of long work: it says how far it is, and whoever watches shows that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, int, int], None]
"""Receives what is being done, such as "sampling", how many parts of it are done, of how many."""

SILENCE = 4.0
"""Seconds without a line, after which a terminal shows the work under way."""
_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


def beat(work: str, done: int, total: int) -> None:
    """Say that `done` of the `total` parts of some work are done; free where nobody watches."""
    if listener := _LISTENER.get():
        listener(work, done, total)


@contextmanager
def watched(listener: Listener) -> Iterator[None]:
    """Pass every beat within the block to `listener`, which may raise to stop the work."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)
