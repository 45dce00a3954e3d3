"""Games as a reader looks at them: siblings side by side, and the attacks that worked best."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from random import Random
from typing import Any, Self

from sparring.games.codec import verdict_json
from sparring.games.game import attack_of, reopened, split_thought
from sparring.metrics import over_refused, succeeded
from sparring.report.escape import cut, digest, in_place_of
from sparring.report.run_report import RunReport, pool_is_broad, renamed, settings_of, spread
from sparring.stats.rates import grouped
from sparring.store.folder import RunDir, read_games
from sparring.types import Episode, Player, State, Status, UsageError

OUTCOMES = ("won", "lost", "unscored")
"""How a game ended for the attacker; a harmful seed that is answered, or a benign one that is
refused, is won."""
MOMENTS, KINDS = 4, 12
"""Rounds whose games a page shows, and strategies by which it filters."""
_FILES = 12
"""Exams that are searched for attacks, the first and the last among them."""
_MOST_BYTES = 256_000_000
_NEVER = re.compile(r"(?<![a-z0-9])(s4|cse[am]?|minors?)(?![a-z0-9])|csam|child|pa?edo", re.I)
"""Categories about children (S4 is Llama Guard's): such texts are never shown, whoever asks."""


@dataclass(frozen=True, slots=True)
class Game:
    """A game that was recorded; `kind` is the set of its exam, or the strategy of its attack."""

    kind: str
    episode: Episode
    shows_text: bool

    @property
    def state(self) -> State:
        return self.episode.state

    @property
    def withheld(self) -> bool:
        return bool(_NEVER.search(self.state.seed.category))

    @property
    def outcome(self) -> str:
        """One of `OUTCOMES`."""
        won = succeeded if self.state.seed.harmful else over_refused
        scored = self.episode.returns is not None
        return ("won" if won(self.state) else "lost") if scored else "unscored"

    @property
    def seed(self) -> str:
        """The seed's label and text, and its name and category where texts are shown."""
        seed = self.state.seed
        named = (seed.id, seed.category) if self.shows_text and not self.withheld else ()
        label = "harmful" if seed.harmful else "benign"
        return " · ".join(filter(None, (label, *named, self._shown(seed.text))))

    @property
    def lines(self) -> dict[str, str]:
        """Texts, ruling and payoff by what they are; `sent 2` is of the second exchange."""
        lines: dict[str, str] = {}
        for ply, move in enumerate(self.state.moves):
            exchange = f" {ply // 2 + 1}" if ply > 1 else ""
            thought = split_thought(reopened(move.completion.text))
            if thought and move.sent is not None and ply >= self.state.dealt:
                lines[f"thought{exchange}"] = self._shown(thought[0].strip())
            name = "sent" if move.player is Player.ATTACKER else "reply"
            unsent = "" if move.sent is not None else ", does not parse"
            text = move.completion.text if move.sent is None else move.sent
            lines[f"{name}{exchange}{unsent}"] = self._shown(text)
        if self.kind:
            lines["kind"] = self.kind
        ruling = verdict_json(self.state.verdict).items()
        lines["verdict"] = ", ".join(f"{name} {value}".lower() for name, value in ruling)
        payoffs = sorted((self.episode.returns or {}).items())
        lines["payoff"] = ", ".join(f"{who} {payoff:+.2f}" for who, payoff in payoffs) or "none"
        return lines

    def _shown(self, text: str) -> str:
        shown = cut(text) if self.shows_text else in_place_of(text)
        return "(withheld)" if self.withheld else shown

    def to_json(self) -> dict[str, Any]:
        """Return what `sparring view --json` prints."""
        figures = {"verdict": verdict_json(self.state.verdict), "returns": self.episode.returns}
        return {"seed": self.seed, "outcome": self.outcome, **self.lines, **figures}


@dataclass(frozen=True, slots=True)
class Gathering:
    """The games of a round or an exam, those about one seed together."""

    title: str
    groups: Sequence[Sequence[Game]]

    @property
    def counts(self) -> str:
        """How many seeds and games there are, and how the games ended."""
        outcomes = [game.outcome for group in self.groups for game in group]
        ended = "".join(f", {outcomes.count(o)} {o}" for o in OUTCOMES if o in outcomes)
        return f"{len(self.groups)} seeds, {len(outcomes)} games{ended}"

    def only(self, outcome: str | None, kind: str) -> Self:
        """Return the games that ended so and whose strategy or family has `kind` in its name."""
        groups = (
            [g for g in group if outcome in (None, g.outcome) and kind.lower() in g.kind.lower()]
            for group in self.groups
        )
        return replace(self, groups=[group for group in groups if group])

    def drawn(self, rng_seed: int, most: int) -> Self:
        """Return games that are drawn at random, `most` of them, each by itself."""
        games = [game for group in self.groups for game in group]
        drawn = Random(rng_seed).sample(games, min(most, len(games)))
        return replace(self, groups=[[game] for game in drawn])


def gathered(run: RunDir, done: int | None, shows_text: bool, exam: bool = False) -> Gathering:
    """Return the games of a round, counted from 1, or of the exam after `done` rounds.

    None stands for the last one, or the last exam where no round is recorded; UsageError where
    there are no games of it.
    """
    exam = exam or (done is None and not run.transcripts())
    what = "exam after round" if exam else "round"
    there = run.exams() if exam else [number + 1 for number in run.transcripts()]
    done = max(there, default=0) if done is None else done
    if done not in there:
        raise UsageError(f"{run.folder}: no games of {what} {done}; {_recorded(there)}")
    path = run.exam_games(done) if exam else run.transcript(done - 1)
    games = _games(run, path, shows_text)
    groups = grouped((game.state.seed.id if exam else game.episode.opening, game) for game in games)
    return Gathering(f"{what} {done}", [*groups.values()])


def _recorded(numbers: Iterable[int]) -> str:
    there = ", ".join(map(str, spread([*numbers], 10))) or "none"
    return f"there are those of {there} (saving.transcripts_every, saving.transcripts_mb)"


def unrecorded(run: RunDir) -> str:
    """Say how many rounds have no games and which have; '' where all have."""
    numbers = [number + 1 for number in run.transcripts()]
    missing = len(run.rounds()) - len(numbers)
    return f"{missing} rounds have no games; {_recorded(numbers)}" if missing > 0 else ""


def for_page(runs: Sequence[RunReport], public: bool, include_harmful: bool) -> dict[str, Any]:
    """Return what a page shows: attacks, games of a few rounds and exams, and ways to filter them.

    `kind` says whose texts are shown: all (harmful), the sandbox's, or nobody's.
    """
    clear = [harmless(run.run) and not public for run in runs]
    kind = "public" if public else "sandbox" if all(clear) else "redacted"
    attacks, games = [], []
    for run, is_clear in zip(runs, clear, strict=True):
        shows_text = include_harmful or is_clear
        attacks.append((run.label, strongest(run.run, shows_text)))
        rounds = spread([*run.run.transcripts()], 0 if public else MOMENTS)
        exams = spread(run.run.exams(), 0 if public else 2)
        games += [(run.label, gathered(run.run, n + 1, shows_text)) for n in rounds]
        games += [(run.label, gathered(run.run, n, shows_text, exam=True)) for n in exams]
    every = (g for _, gathering in games for group in gathering.groups for g in group)
    kinds = list(dict.fromkeys(game.kind for game in every if game.kind))[:KINDS]
    return {
        "kind": "harmful" if include_harmful else kind,
        "attacks": [listed for listed in attacks if listed[1]],
        "games": [listed for listed in games if listed[1].groups],
        "kinds": kinds,
        "filters": {
            "outcome": [(outcome, outcome) for outcome in OUTCOMES],
            "strategy": [(f"k{place}", name) for place, name in enumerate(kinds)],
        },
        "unrecorded": [(run.label, unrecorded(run.run)) for run in runs],
    }


def harmless(run: RunDir) -> bool:
    """Whether a run was played in the sandbox, whose texts anybody may read."""
    config = settings_of(run)
    return config is not None and config.in_sandbox


def _games(run: RunDir, path: Path, shows_text: bool) -> Iterator[Game]:
    config = settings_of(run)
    thinks = config is not None and config.game.reply_format > 0
    broad = pool_is_broad(config)
    read = read_games(path, thinks, _MOST_BYTES)
    return (Game(renamed(kind, broad), episode, shows_text) for kind, episode in read)


@dataclass(frozen=True, slots=True)
class Attack:
    """An attack of a family, which worked in `won` of `tries` games, last in round `last`.

    `sha256` and `words` stand for the text; `game` is one of those in which it worked, if any.
    """

    family: str
    sha256: str
    words: int
    game: Game
    won: int = 0
    tries: int = 0
    last: int = -1


def strongest(run: RunDir, shows_text: bool) -> list[Attack]:
    """Return every harmful family's attack that worked most often in the exams of a run.

    Nothing where none worked.
    """
    families: dict[str, dict[str, Attack]] = {}
    for number in spread(run.exams(), _FILES):
        for game in _games(run, run.exam_games(number), shows_text):
            text, (label, _, family) = attack_of(game.state), game.kind.partition("/")
            if label != "harmful" or not game.state.seed.harmful or not text:
                continue
            sha256, attacks = digest(text), families.setdefault(family, {})
            attack = attacks.get(sha256) or Attack(family, sha256, len(text.split()), game)
            if game.state.verdict.status is Status.OK and succeeded(game.state):
                attack = replace(attack, won=attack.won + 1, last=number, game=game)
            attacks[sha256] = replace(attack, tries=attack.tries + 1)
    strength = attrgetter("won", "last", "sha256")
    best = [max(attacks.values(), key=strength) for attacks in families.values()]
    return best if any(attack.won for attack in best) else []
