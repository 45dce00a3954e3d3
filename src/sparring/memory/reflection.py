"""Reflection: a defender that is shown how it failed, and taught without the hint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sparring.memory.experience import Entry, ExperiencePool, bare
from sparring.players.player import Policy, Request
from sparring.types import Completion, Message, Observation, Player

Wording = Callable[[Entry], Observation]
"""What the defender sees of an earlier failure: the attack, its reply, the ruling, the attack."""


@dataclass(frozen=True, slots=True)
class Words:
    """What the judge's ruling on an earlier reply is told as, by the seed's label."""

    harmful: str
    benign: str

    def __call__(self, entry: Entry) -> Observation:
        ruling = self.harmful if entry.seed.harmful else self.benign
        again = Message("user", f"{ruling} {entry.seen[-1].content}")
        return (*entry.seen, Message("assistant", entry.reply), again)


@dataclass(frozen=True)
class Reflecting:
    """A defender that sees its earlier reply and the ruling in half of a replay group.

    What it says then is handed on as if said to the bare prompt: bare prompt ids beside the
    log-probabilities of the reflected one. So the learner's clipped ratio is π(y | bare) over
    π(y | reflected), and nothing in the learner changes. The ratio is near 0 just where the bare
    policy would not have said it; `sampling_logp_difference` is then its largest |ln|.
    """

    policy: Policy
    pool: ExperiencePool
    wording: Wording

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        paired = [(request, self._lesson(request)) for request in requests]
        plain = [Request(r.observation, _first(r)) if lesson else r for r, lesson in paired]
        shown = [Request(lesson, r.addresses[len(_first(r)) :]) for r, lesson in paired if lesson]
        said = self.policy.sample([*plain, *shown])
        again = iter(said[len(plain) :])
        return [
            [*told, *(replace(c, prompt_ids=told[0].prompt_ids) for c in next(again))]
            if lesson
            else told
            for (_, lesson), told in zip(paired, said[: len(plain)], strict=True)
        ]

    def _lesson(self, request: Request) -> Observation | None:
        """What the second half of a group is shown; None: it is no replay, or one reply alone.

        By the address: a live attack may read like a replayed one, and those on two seeds alike.
        """
        if len(request.addresses) < 2:
            return None
        briefs = tuple(message for message in request.observation if message.role == "system")
        for name, entry in self.pool.named.items():
            if f"/{name}/{Player.DEFENDER}/" in request.addresses[0]:
                return briefs + self.wording(entry)
        return None


def _first(request: Request) -> tuple[str, ...]:
    """The half that answers the bare prompt; of an odd number the larger one."""
    return request.addresses[: bare(len(request.addresses))]
