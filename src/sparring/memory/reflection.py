"""Reflection: the defender is shown how it failed, and trained as if it had not been."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sparring.memory.experience import Entry, ExperiencePool, unaided
from sparring.players.player import Policy, Request
from sparring.types import Completion, Message, Observation, Player


@dataclass(frozen=True, slots=True)
class Words:
    """States the ruling on the defender's earlier reply, in one text for each seed label."""

    harmful: str
    benign: str

    def hint(self, entry: Entry) -> Observation:
        """The attack, the defender's reply to it, the ruling, and the attack again."""
        ruling = self.harmful if entry.seed.harmful else self.benign
        again = Message("user", f"{ruling} {entry.seen[-1].content}")
        return (*entry.seen, Message("assistant", entry.reply), again)


@dataclass(frozen=True)
class Reflecting:
    """A defender that sees its earlier reply and the ruling in half of a replay group.

    What it samples under the hint is returned with the prompt ids of the bare prompt and the
    log-probabilities under the hint. So the learner's clipped ratio is π(y | bare) / π(y | hint),
    and the learner does not change. The ratio is near 0 exactly where the bare policy would not
    have sampled y; `sampling_logp_difference` is then its largest |ln|.
    """

    policy: Policy
    pool: ExperiencePool
    wording: Words

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        hints = [self._hint(request) for request in requests]
        bare: list[Request] = []
        hinted: list[Request] = []
        for request, hint in zip(requests, hints, strict=True):
            width = unaided(len(request.addresses)) if hint else len(request.addresses)
            bare.append(Request(request.observation, request.addresses[:width]))
            if hint:
                hinted.append(Request(hint, request.addresses[width:]))
        sampled = self.policy.sample([*bare, *hinted])
        under_hint = iter(sampled[len(bare) :])
        return [
            [*group, *(replace(c, prompt_ids=group[0].prompt_ids) for c in next(under_hint))]
            if hint
            else group
            for group, hint in zip(sampled[: len(bare)], hints, strict=True)
        ]

    def _hint(self, request: Request) -> Observation | None:
        """The prompt of a replay group's second half; None for any other request.

        A replay is known by its address: a fresh attack may have the same text. A system prompt
        stays in front.
        """
        if len(request.addresses) < 2:
            return None
        system = tuple(message for message in request.observation if message.role == "system")
        for name, entry in self.pool.replays_by_name.items():
            if f"/{name}/{Player.DEFENDER}/" in request.addresses[0]:
                return system + self.wording.hint(entry)
        return None
