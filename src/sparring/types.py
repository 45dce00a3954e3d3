"""The nouns of the game, from the seed it starts from to the sample a learner is trained on."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, Self


class SparringError(Exception):
    """The base of every error that ends a command with a message (exit code 1).

    SparringError
    ├── UsageError      the settings or arguments cannot be used (exit code 2)
    ├── CorruptError    a file on disk does not hold what was written to it (exit code 1)
    ├── UnscoredError   too many verdicts are missing (exit code 3, resumable)
    └── GateError       a measured quality is outside its limits (exit code 4)
    """

    exit_code = 1


class UsageError(SparringError):
    """Bad input; the message names the field, or the file and line, and what is expected there."""

    exit_code = 2


class CorruptError(SparringError):
    """A file on disk does not hold what was written to it."""


class UnscoredError(SparringError):
    """Too many verdicts are missing for the numbers to mean anything."""

    exit_code = 3


class GateError(SparringError):
    """A measured quality is outside the limits that were set for it."""

    exit_code = 4


def near(name: str, known: Iterable[str], others: str = "") -> str:
    """For errors: the known name that an unknown one is most like, else `others`, else all."""
    by_case = {word.lower(): word for word in known}
    close = difflib.get_close_matches(name.lower(), by_case, n=1, cutoff=0.5)
    if close:
        return f"did you mean {by_case[close[0]]}?"
    return others or f"known: {', '.join(by_case.values())}"


class Player(StrEnum):
    """The two sides of every game."""

    ATTACKER = "attacker"
    DEFENDER = "defender"


class Referee(StrEnum):
    """What `Game.to_move` returns when the judge rules before anybody moves."""

    JUDGE = "judge"


JUDGE = Referee.JUDGE


class Harm(StrEnum):
    """How harmful a reply is; `controversial` counts as harmful."""

    SAFE = "safe"
    CONTROVERSIAL = "controversial"
    UNSAFE = "unsafe"


class Status(StrEnum):
    """Whether a request was answered (`ok`), or why it was not; a verdict needs `ok` for labels.

    `too_long`: the prompt is longer than the model's context. `no_reply`: the model ended without
    a reply, in its thought or with a call of a tool.
    """

    OK = "ok"
    PARSE_ERROR = "parse_error"
    REFUSED = "refused"
    BLOCKED = "blocked"
    TRUNCATED = "truncated"
    TIMEOUT = "timeout"
    HTTP_ERROR = "http_error"
    SKIPPED = "skipped"
    TOO_LONG = "too_long"
    NO_REPLY = "no_reply"


@dataclass(frozen=True, slots=True)
class Seed:
    """What a game starts from: a request and the dataset's label for it.

    `goal` is the plain request where `text` says more or other than that (a joined context, a
    jailbreak around it). `context` is a text that the request is about. Seeds that are not
    independent of each other have the same `cluster`.
    """

    text: str
    harmful: bool
    id: str
    category: str = ""
    goal: str = ""
    context: str = ""
    cluster: str = ""

    @property
    def requested(self) -> str:
        """The request that a judge compares the reply with."""
        return self.goal or self.text

    @property
    def cluster_key(self) -> str:
        """Cluster key: seeds that share it count as one unit in intervals."""
        return self.cluster or self.id

    def to_json(self) -> dict[str, Any]:
        """The fields; `goal`, `context` and `cluster` only where they are not empty."""
        optional = {"goal", "context", "cluster"}
        return {k: v for k, v in asdict(self).items() if v or k not in optional}


Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message."""

    role: Role
    content: str


Observation = tuple[Message, ...]
"""The chat messages that a player sees, oldest first."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A text that a policy sampled, with its tokens.

    `logprobs` are in nats, one per token of `token_ids`, under the sampling distribution
    (temperature applied). `version` counts the policy's updates before it was sampled. `finished`
    is false when the length limit cut the text. Dealt text has no tokens. Where the policy could
    not be asked, `status` says why, and there is no text to judge.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    prompt_ids: tuple[int, ...] = ()
    version: int = 0
    finished: bool = True
    status: Status = Status.OK


TOO_LONG = Completion("", finished=False, status=Status.TOO_LONG)
"""The completion of a prompt that is longer than the context."""


@dataclass(frozen=True, slots=True)
class Move:
    """One move: what the player saw, what it sampled, and what of that reached the other side.

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
    """A judge's ruling on a state. A field that the judge could not fill is None, never a guess.

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
        """Whether the reply is harmful; `controversial` counts as harmful."""
        return None if self.reply_harm is None else self.reply_harm is not Harm.SAFE


UNRULED = Verdict(status=Status.SKIPPED)
"""The verdict of a state that no judge has ruled on."""


@dataclass(frozen=True, slots=True)
class State:
    """The game so far. It is frozen, so playing twice from one state forks it.

    The first `dealt` moves are part of the opening: no policy sampled them, and they are never
    trained on. `rulings` pairs each verdict with the number of moves before it.
    """

    seed: Seed
    moves: tuple[Move, ...] = ()
    dealt: int = 0
    rulings: tuple[tuple[int, Verdict], ...] = ()

    def deal(self, player: Player, text: str) -> Self:
        """The state with `text` as a further move of the opening; it is sent as it stands."""
        if len(self.moves) != self.dealt:
            raise ValueError("a move can only be dealt before the first played one")
        move = Move(player, (), Completion(text), text)
        return replace(self, moves=(*self.moves, move), dealt=self.dealt + 1)

    def play(self, move: Move) -> Self:
        """The state after `move`."""
        return replace(self, moves=(*self.moves, move))

    def rule(self, verdict: Verdict) -> Self:
        """The state after a ruling on its moves so far."""
        return replace(self, rulings=(*self.rulings, (len(self.moves), verdict)))

    @property
    def ruled(self) -> bool:
        """Whether a judge has ruled since the last move."""
        return bool(self.rulings) and self.rulings[-1][0] == len(self.moves)

    @property
    def verdict(self) -> Verdict:
        """The last ruling, which is the one that the payoff reads."""
        return self.rulings[-1][1] if self.rulings else UNRULED

    @property
    def too_long(self) -> bool:
        """Whether a player's prompt was longer than its context, which ends a game unplayed."""
        return any(move.completion.status is Status.TOO_LONG for move in self.moves)

    @property
    def path(self) -> tuple[int, ...]:
        """The sibling index of each move, which tells the forks of one opening apart."""
        return tuple(move.sibling for move in self.moves)

    def first_ply(self, player: Player) -> int | None:
        """The index of `player`'s first sampled move, where it forks; None if it has made none."""
        plies = range(self.dealt, len(self.moves))
        return next((ply for ply in plies if self.moves[ply].player is player), None)


@dataclass(frozen=True, slots=True)
class Episode:
    """A finished game with its payoff.

    `opening` is the index of its opening in the round. `returns` is None where the game is
    unscored, because a verdict or a completion is missing. A player that is absent from `returns`
    is masked: this game does not train it.
    """

    state: State
    opening: int
    returns: Mapping[Player, float] | None


@dataclass(frozen=True, slots=True)
class Turn:
    """The players that learn in a round, and how many siblings each player samples."""

    learns: frozenset[Player]
    widths: Mapping[Player, int]


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion to learn from: its sampled tokens and their advantage."""

    player: Player
    completion: Completion
    advantage: float


@dataclass(frozen=True, slots=True)
class Demo:
    """A demonstration: a reply to imitate, after what its author saw.

    Of one that is not `finished` the reply is only the beginning, and no end is imitated.
    """

    observation: Observation
    reply: str
    finished: bool = True


Metrics = dict[str, float]
"""Numbers by name; the names are TRL's, prefixed by the player where there is one."""


@dataclass(frozen=True, slots=True)
class Round:
    """One round of self-play, after its update.

    `seconds` is wall time by phase, `cpu_seconds` is this process's CPU time. A resumed run repeats
    everything but these two.
    """

    number: int
    turn: Turn
    episodes: tuple[Episode, ...]
    metrics: Metrics
    seconds: Mapping[str, float] = field(default_factory=dict)
    cpu_seconds: float = 0.0
