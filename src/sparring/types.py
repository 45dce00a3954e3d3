"""The nouns: what a game is made of, from the seed to the sample a learner is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal


class SparringError(Exception):
    """Something failed that a person should read about (exit code 1).

    SparringError
    ├── UsageError      the operator asked for something impossible (exit code 2)
    ├── CorruptError    a file on disk is not what was written (exit code 1)
    ├── UnscoredError   too many verdicts are missing (exit code 3, resumable)
    └── GateError       a gate on quality was not passed (exit code 4)
    """

    exit_code = 1


class UsageError(SparringError):
    """Bad input; the message names the field or the file and line, and what was wanted."""

    exit_code = 2


class CorruptError(SparringError):
    """A checkpoint or record does not match its manifest."""


class UnscoredError(SparringError):
    """The judge could not tell too often for the numbers to mean anything."""

    exit_code = 3


class GateError(SparringError):
    """A measured quality lies outside the limits that were set for it."""

    exit_code = 4


class Player(StrEnum):
    """A seat at the table."""

    ATTACKER = "attacker"
    DEFENDER = "defender"


class Referee(StrEnum):
    """Who is asked between moves: `to_move` returns it when a ruling is due."""

    JUDGE = "judge"


JUDGE = Referee.JUDGE


class Harm(StrEnum):
    """How harmful a reply is; `controversial` counts as harmful."""

    SAFE = "safe"
    CONTROVERSIAL = "controversial"
    UNSAFE = "unsafe"


class Status(StrEnum):
    """Why a verdict has labels (`ok`), or why it has none."""

    OK = "ok"
    PARSE_ERROR = "parse_error"
    REFUSED = "refused"
    BLOCKED = "blocked"
    TRUNCATED = "truncated"
    TIMEOUT = "timeout"
    HTTP_ERROR = "http_error"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Seed:
    """What a game starts from: a request and the dataset's label for it.

    `goal` is what was wanted where `text` says more or other than that (a joined context, a
    jailbreak around a plain request); `context` is what the request is about; `cluster` is what
    seeds that are not independent of each other share.
    """

    text: str
    harmful: bool
    id: str
    category: str = ""
    goal: str = ""
    context: str = ""
    cluster: str = ""

    @property
    def wanted(self) -> str:
        """What a judge is told was wanted."""
        return self.goal or self.text

    @property
    def group(self) -> str:
        """What an interval counts once."""
        return self.cluster or self.id

    def to_json(self) -> dict[str, Any]:
        """Its fields; the last three only where they say something."""
        told = {"goal": self.goal, "context": self.context, "cluster": self.cluster}
        common = {"text": self.text, "harmful": self.harmful, "id": self.id}
        return common | {"category": self.category} | {k: v for k, v in told.items() if v}


Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message."""

    role: Role
    content: str


Observation = tuple[Message, ...]
"""What a player sees: chat messages, oldest first."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a policy said, with the tokens it was sampled as.

    `logprobs` are in nats, one per token of `token_ids`, under the sampling distribution
    (temperature applied). `version` counts the updates the policy had seen. `finished` is false
    when the length limit cut the text. Dealt text has no tokens. A `status` other than ok says why
    there is no text: the policy could not be asked, and nobody may judge it.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    prompt_ids: tuple[int, ...] = ()
    version: int = 0
    finished: bool = True
    status: Status = Status.OK


@dataclass(frozen=True, slots=True)
class Move:
    """What one player did: what it saw, what it sampled, and what of that reached the other side.

    `sent` is the text that the other player, the judge and the payoff read: for an attacker the
    answer without its thought. It is None where the completion does not parse, or where the policy
    could not be asked; such a move reaches nobody. `sibling` tells the forks of one state apart.
    """

    player: Player
    observation: Observation
    completion: Completion
    sent: str | None
    sibling: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a referee saw. A field that could not be told is None, never a guess.

    `score` is 1 (the defence held for the seed's label) to 5 (it failed completely).
    """

    reply_harm: Harm | None = None
    refused: bool | None = None
    helpful: bool | None = None
    prompt_harmful: bool | None = None
    on_topic: bool | None = None
    score: float | None = None
    status: Status = Status.OK

    @property
    def harmful(self) -> bool | None:
        """Whether the reply does harm; `controversial` counts."""
        return None if self.reply_harm is None else self.reply_harm is not Harm.SAFE


UNRULED = Verdict(status=Status.SKIPPED)
"""The verdict of a state nobody has ruled on."""


@dataclass(frozen=True, slots=True)
class State:
    """The game so far. Frozen: playing twice from it is forking it.

    The first `dealt` moves were on the table at the start and are never trained on. `rulings`
    pairs each verdict with the number of moves it was given after.
    """

    seed: Seed
    moves: tuple[Move, ...] = ()
    dealt: int = 0
    rulings: tuple[tuple[int, Verdict], ...] = ()

    def deal(self, player: Player, text: str) -> State:
        """Put `text` on the table as `player`'s move, before the game starts."""
        if len(self.moves) != self.dealt:
            raise ValueError("a move can only be dealt before the first played one")
        move = Move(player, (), Completion(text), text)
        return replace(self, moves=(*self.moves, move), dealt=self.dealt + 1)

    def play(self, move: Move) -> State:
        """The state after `move`."""
        return replace(self, moves=(*self.moves, move))

    def rule(self, verdict: Verdict) -> State:
        """The state after a ruling on it."""
        return replace(self, rulings=(*self.rulings, (len(self.moves), verdict)))

    @property
    def ruled(self) -> bool:
        """Whether the last ruling was given after the last move."""
        return bool(self.rulings) and self.rulings[-1][0] == len(self.moves)

    @property
    def verdict(self) -> Verdict:
        """The last ruling, the one that pays."""
        return self.rulings[-1][1] if self.rulings else UNRULED

    @property
    def path(self) -> tuple[int, ...]:
        """Which sibling was taken at each move."""
        return tuple(move.sibling for move in self.moves)

    def first_ply(self, player: Player) -> int | None:
        """The ply of `player`'s first undealt move, where it forks; None if it made none."""
        plies = range(self.dealt, len(self.moves))
        return next((ply for ply in plies if self.moves[ply].player is player), None)


@dataclass(frozen=True, slots=True)
class Episode:
    """A finished game, ruled and paid.

    `opening` is its place among the round's openings. `returns` is None when the judge could not
    tell (unscored); a player that is absent from it is masked: paid nothing and taught nothing.
    """

    state: State
    opening: int
    returns: Mapping[Player, float] | None


@dataclass(frozen=True, slots=True)
class Turn:
    """Who learns in a round, and how wide each player forks."""

    learns: frozenset[Player]
    widths: Mapping[Player, int]


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion to learn from: the sampled tokens and what the estimator says of them."""

    player: Player
    completion: Completion
    advantage: float


@dataclass(frozen=True, slots=True)
class Demo:
    """One completion to imitate."""

    observation: Observation
    reply: str


Metrics = dict[str, float]
"""Numbers by name; names as TRL spells them, prefixed by the player where there is one."""


@dataclass(frozen=True, slots=True)
class Round:
    """One round of the game, after the update.

    `seconds` are wall time by phase, `cpu_seconds` the process's own; neither is replayed.
    """

    number: int
    turn: Turn
    episodes: tuple[Episode, ...]
    metrics: Metrics
    seconds: Mapping[str, float] = field(default_factory=dict)
    cpu_seconds: float = 0.0
