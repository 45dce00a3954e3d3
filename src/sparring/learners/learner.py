"""What every learner does: it is the only thing that changes weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sparring.types import Metrics, Sample


class Learner(Protocol):
    """Turns samples into an update of the weights it was made with."""

    def update(self, samples: Sequence[Sample]) -> Metrics:
        """One update; metrics are prefixed by the player they are about."""
        ...
