"""From settings to parts: models at one commit, judges, seeds and exams."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from sparring.data.readers import gathered, read_pool
from sparring.data.splits import hold_out, without
from sparring.diversity import Similarity, diversity_metrics, embedded, strategy_entropy
from sparring.games.game import Briefs, attack_of, attacks_of
from sparring.judges.judge import Judge
from sparring.memory.reflection import Wording, Words
from sparring.metrics import distinct_attacks, episode_metrics
from sparring.players.loading import commit
from sparring.players.player import Policy, Request
from sparring.runs.judges import judge_of
from sparring.runs.run import Sets
from sparring.sandbox.language import POOLED, Language, strategy_name
from sparring.sandbox.model import SHIPPED, language_of, one_thread
from sparring.sandbox.pool import attack_pool, broad, dialogues, narrow
from sparring.sandbox.words import RULED_BENIGN, RULED_HARMFUL
from sparring.sandbox.world import World
from sparring.settings.config import RunConfig
from sparring.settings.sections import SANDBOX, PlayerSettings
from sparring.types import Demo, Episode, Message, Metrics, Player, Seed, State, UsageError

Chatter = Callable[[Policy, int, str], list[Demo]]
"""(the model as it is, how many, an address) → ordinary chat for it to go on with."""


_LABELS = ("harmful", "benign")

_BROAD = (
    "the attack pool is broad: it holds every family of the exam, also those called held-out "
    "(out of the narrow pool, warm_up.pool=narrow); the exam's seeds are held out of everything"
)
UNPARSEABLE, UNFAITHFUL = "unparseable", "unfaithful"


@dataclass(frozen=True)
class Setting:
    """Where a game is played: the seeds, who judges them, how attackers are briefed and tested.

    `chat` keeps a model that is trained on other things from forgetting how to help; `wording`
    is how a defender that reflects is told what the judge ruled.
    """

    seeds: Sequence[Seed]
    judge: Judge
    briefs: Briefs
    held_out: Sets
    pooled: Mapping[str, Sequence[str]]
    pool: Sequence[Demo]
    chat: Chatter
    wording: Wording
    notes: Sequence[str]
    world: World | None = None
    embedding: Similarity | None = None
    """How alike two rewrites are in meaning, if a model is there to say."""
    second: Judge | None = None
    """Rules on exams once more, and never on a reward."""
    examiner: Policy | None = None
    """Attacks where the exam's openings are not dealt."""

    def measure(self, episodes: Sequence[Episode]) -> Metrics:
        """A round's metrics; where strategies can be told, what the attacker's rewrites are."""
        metrics = episode_metrics(episodes) | diversity_metrics(episodes, self.embedding)
        return metrics | strategies(self.world.language, episodes) if self.world else metrics


def setting(config: RunConfig) -> Setting:
    """The sandbox, or the user's own seeds."""
    place = _sandbox(config) if config.in_sandbox else _own(config)
    model = config.game.embedding_model
    return replace(place, embedding=embedded(model)) if model else place


def model_path(name: str) -> str:
    """Where a model lies; `sandbox` is the shipped one."""
    return str(SHIPPED) if name == SANDBOX else name


def _sandbox(config: RunConfig) -> Setting:
    one_thread()
    unread = {
        "attacker.warm_start": config.attacker.warm_start,
        "defender.warm_start": config.defender.warm_start,
        "data.exam": config.data.exam,
    }
    for name, told in unread.items():
        if told:
            raise UsageError(f"{name}: the sandbox makes its own; it goes with data.train")
    world = World(language_of(Path(model_path(config.defender.model_name_or_path))))
    kinds = [told.kind for told in (*config.judge, *config.exam.judge)]
    if kinds != [SANDBOX]:
        raise UsageError(
            f"judge.kind: {' and '.join(kinds)} cannot rule in the sandbox, which has its own "
            "judge; give data.train a seed file, or leave judge out"
        )
    warm, several = config.warm_up, config.game.exchanges > 1
    pick = broad if warm.pool == "broad" else narrow(warm.pool_encodings)
    pool = attack_pool(world, warm.pool_size, pick, f"{config.seed}")
    held_out = world.exam(config.exam.n, "exam")
    if several:
        games = round(warm.pool_dialogues * warm.pool_size)
        pool += dialogues(world, games, pick, f"{config.seed}")
        held_out |= world.two_exchange_exam(config.exam.n)
    return Setting(
        seeds=world.seeds(world.language.train),
        judge=world.judge,
        briefs=world.briefs,
        held_out=held_out,
        pooled=POOLED,
        pool=pool,
        chat=_sandbox_chat(config, world),
        wording=Words(RULED_HARMFUL, RULED_BENIGN),
        notes=(_BROAD,) if warm.pool == "broad" and warm.steps else (),
        world=world,
        examiner=world.two_exchange_attacker() if several else None,
    )


def _sandbox_chat(config: RunConfig, world: World) -> Chatter:
    """Lessons of the base; where the defender thinks first, its lessons show how."""
    lessons = world.thinking if config.game.reply_format else world.chat
    return lambda _policy, n, rng_seed: lessons(n, rng_seed)


def _own(config: RunConfig) -> Setting:
    seeds, notes = gathered([s.model_dump() for s in config.data.train])
    if config.data.exam:
        held, more = gathered([s.model_dump() for s in config.data.exam])
        everyone, seeds = seeds, without(seeds, held)
        twice = len(everyone) - len(seeds)
        notes += (
            [*more, f"{twice} seeds of data.exam were left out of data.train"] if twice else more
        )
    else:
        seeds, held = hold_out(seeds, config.exam.holdout)
    if not any(seed.harmful for seed in seeds):
        raise UsageError("data.train: no harmful seeds, so there is nothing to attack")
    if all(seed.harmful for seed in seeds):
        notes.append("no benign seeds: over-refusal is not measured, and refusing everything wins")
    salt = f"{config.seed}/judge"
    judge = judge_of(config.judge, config.judge_rules, salt)
    second = judge_of(config.exam.judge, {}, salt, "exam.judge") if config.exam.judge else None
    notes += list(filter(None, (judge.caveat, second.caveat if second else "")))
    plain = {
        label: [_as_it_stands(s) for s in held if s.harmful == harmful][: config.exam.n]
        for label, harmful in (("harmful/plain", True), ("benign/plain", False))
    }
    pool = config.attacker.warm_start
    return Setting(
        seeds=seeds,
        judge=judge,
        briefs=packaged_briefs(config.game.exchanges),
        held_out={label: told for label, told in plain.items() if told},
        pooled={},
        pool=read_pool(Path(pool)) if pool else (),
        chat=_own_chat(config, seeds),
        wording=Words(*(_packaged(f"ruled_{label}") for label in _LABELS)),
        notes=notes,
        second=second,
    )


def _own_chat(config: RunConfig, seeds: Sequence[Seed]) -> Chatter:
    """The user's own demonstrations, or what the model itself now says to benign seeds."""
    given = config.defender.warm_start
    if given:
        told = read_pool(Path(given))
        return lambda _policy, n, rng_seed: random.Random(rng_seed).choices(told, k=n)
    asked = [(Message("user", seed.text),) for seed in seeds if not seed.harmful]

    def chat(policy: Policy, n: int, rng_seed: str) -> list[Demo]:
        if not asked:
            raise UsageError(
                "warm_up.chat: there are no benign seeds to answer; give defender.warm_start a "
                "JSONL file of ordinary chat, or set warm_up.chat=0"
            )
        chosen = random.Random(rng_seed).choices(asked, k=n)
        requests = [Request(seen, (f"{rng_seed}/{i}",)) for i, seen in enumerate(chosen)]
        said = policy.sample(requests)
        return [Demo(seen, told[0].text) for seen, told in zip(chosen, said, strict=True)]

    return chat


def _as_it_stands(seed: Seed) -> State:
    return State(seed).deal(Player.ATTACKER, seed.text)


def packaged_briefs(exchanges: int = 1) -> Briefs:
    """The system prompts for real models; the attacker's also say how to go on after a reply."""
    more = f"\n\n{_packaged('again')}" if exchanges > 1 else ""
    harmful, benign = (_packaged(label) + more for label in _LABELS)
    return Briefs(harmful, benign, _packaged("think"))


def _packaged(name: str) -> str:
    return (files("sparring.games") / "briefs" / f"{name}.md").read_text("utf-8").strip()


def strategies(language: Language, episodes: Sequence[Episode]) -> Metrics:
    """Shares of the attacker's distinct rewrites by strategy; only faithful ones count by name.

    `strategy_entropy` (nats) is over the named ones alone, and left out where there are none.
    """
    played = distinct_attacks(e for e in episodes if not e.state.dealt)
    counts = Counter(_strategy(language, state) for state in played)
    named = [n for name, n in counts.items() if name not in (UNPARSEABLE, UNFAITHFUL)]
    shares = {f"strategy/{name}": n / len(played) for name, n in sorted(counts.items())}
    return shares | ({"strategy_entropy": strategy_entropy(named)} if named else {})


def _strategy(language: Language, state: State) -> str:
    if attack_of(state) is None:
        return UNPARSEABLE
    attacks = [attack for attack in attacks_of(state) if attack is not None]
    return strategy_name(language, attacks) if state.verdict.on_topic else UNFAITHFUL


def pinned(config: RunConfig) -> tuple[RunConfig, list[str]]:
    """The configuration with the commit of every hub model, and a note for each that was found.

    What is written down as a run's configuration is this, so every verb that reads it later loads
    the same weights, whatever was pushed to the hub meanwhile.
    """
    found: dict[str, Any] = {}
    commits: dict[tuple[str, str | None], str | None] = {}
    for player in Player:
        told = seated(config, player)
        asked = (told.model_name_or_path, told.revision)
        if asked not in commits:
            commits[asked] = commit(model_path(told.model_name_or_path), told.revision)
        found[player.value] = told.model_copy(update={"revision": commits[asked]})
    notes = [at_commit(*asked, now) for asked, now in commits.items() if now != asked[1]]
    return config.model_copy(update=found), notes


def at_commit(name: str, revision: str | None, now: str | None) -> str:
    """What a user is told of a model whose commit was found and not given."""
    return f"{name} is taken at commit {now} ({revision or 'the newest'} as of now)"


def as_begun(before: RunConfig, config: RunConfig) -> RunConfig:
    """`config` at the commits that a run began with, where it names no commit that differs.

    A branch that has moved since is a difference, and stays one.
    """
    found: dict[str, Any] = {}
    for player in Player:
        old, now = seated(before, player), seated(config, player)
        if old.model_name_or_path != now.model_name_or_path or old.revision == now.revision:
            continue
        named = now.revision and commit(model_path(now.model_name_or_path), now.revision)
        found[player.value] = now.model_copy(update={"revision": named or old.revision})
    return config.model_copy(update=found)


def seated(config: RunConfig, player: Player) -> PlayerSettings:
    """Who sits in that player's seat."""
    return config.attacker if player is Player.ATTACKER else config.defender
