"""From a configuration to a match: rules, openings, turns, memory and opponents put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from sparring import credit
from sparring.coevolve import Plan
from sparring.data.splits import draw
from sparring.diversity.reward import rewarded
from sparring.diversity.similarity import bag_of_words
from sparring.games.dialogue import Dialogue
from sparring.games.game import Game
from sparring.games.payoffs import MAGIC, LabelPayoff, Payoff, ScorePayoff, SelfRedTeamPayoff
from sparring.judges.judge import Judge
from sparring.judges.split import Split
from sparring.ranks import launched
from sparring.recipes.match import Match, Seat
from sparring.recipes.parts import Setting, setting
from sparring.recipes.pinning import pinned
from sparring.recipes.recalling import league, memory, reflecting
from sparring.recipes.seating import seats, thinking, warm_up
from sparring.schedules import Schedule, alternate, always, by_metric, solo
from sparring.settings import RunConfig
from sparring.types import Metrics, Player, State, Turn, UsageError

_BOTH = frozenset(Player)


def assemble(config: RunConfig) -> Match:
    """The match that a configuration describes; loads models, of the hub at one commit."""
    config, found = pinned(config)
    ranks = launched()
    place = setting(config)
    judge = Split(place.judge, ranks)
    payoff = _payoff(config)
    rules = config.game
    game = Dialogue(payoff, place.briefs, rules.gate, rules.exchanges, rules.reply_format)
    _check_fields(game.needs, judge, rules.exchanges)
    table = thinking(config, seats(config, place.chat, ranks), place.think)
    pool = memory(config, payoff.held)
    similarity = place.embedding or bag_of_words
    policies = {player: seat.policy for player, seat in table.items()}
    plan = Plan(
        game=game,
        judge=judge,
        openings=_openings(config, place, game),
        schedule=_schedule(config),
        cast=reflecting(config, policies, pool, place.wording),
        learners={player: seat.learner for player, seat in table.items()},
        estimator=getattr(credit, config.learner.advantage),
        rounds=config.rounds,
        rng_seed=str(config.seed),
        measure=place.measure,
        shape=lambda episodes: rewarded(episodes, config.game.diversity, similarity),
        memory=pool,
        league=league(config, policies, game, judge, place.seeds),
    )
    return Match(
        config=config,
        plan=plan,
        examined=replace(game, exchanges=2) if place.examiner else game,
        seats=table,
        seeds=place.seeds,
        held_out=place.held_out,
        pooled=place.pooled,
        record_attacks=place.world is None,
        warm_up=_warm_up(config, place, table),
        notes=(*place.notes, *found),
        world=place.world,
        examiner=place.examiner,
        ranks=ranks,
        second=place.second and Split(place.second, ranks),
    )


def _payoff(config: RunConfig) -> Payoff:
    rules = config.game
    payoffs: dict[str, Callable[[], Payoff]] = {
        "magic": lambda: LabelPayoff(MAGIC, rules.format, rules.helpfulness),
        "score": ScorePayoff,
        "self_redteam": lambda: SelfRedTeamPayoff(rules.format),
    }
    return payoffs[rules.payoff]()


def _openings(config: RunConfig, place: Setting, game: Game) -> Callable[[int, Turn], list[State]]:
    """The seeds of a round; the first of each label are asked as they stand, if a share is."""

    def openings(number: int, turn: Turn) -> list[State]:
        size = max(config.learner.seeds_per_round[player] for player in turn.learns)
        drawn = draw(place.seeds, number, size, f"{config.seed}/seeds")
        plain: set[int] = set()
        for harmful in (True, False):
            mine = [i for i, seed in enumerate(drawn) if seed.harmful == harmful]
            plain |= set(mine[: round(config.data.as_they_stand * len(mine))])
        return [
            State(seed).deal(Player.ATTACKER, seed.text) if i in plain else game.open(seed)
            for i, seed in enumerate(drawn)
        ]

    return openings


def _schedule(config: RunConfig) -> Schedule:
    told, widths = config.schedule, config.learner.num_generations
    turns = {p: solo(p, widths[p], told.replies_per_attack) for p in Player}
    if told.kind == "both":
        return always(Turn(_BOTH, {player: widths[player] for player in Player}))
    if told.kind == "defender":
        return always(turns[Player.DEFENDER])
    if told.kind == "alternate":
        return alternate(turns, {player: told.every[player] for player in Player})
    return by_metric(turns, told.limits, told.window, told.dwell)


def _warm_up(
    config: RunConfig, place: Setting, table: Mapping[Player, Seat]
) -> Callable[[], Iterator[Metrics]]:
    """The attack pool, with ordinary chat beside it if a share is asked for.

    A defender that thinks first and has weights of its own is shown how.
    """

    def run() -> Iterator[Metrics]:
        share, demos, seat = config.warm_up.chat, list(place.pool), table[Player.ATTACKER]
        if demos and share:
            wanted = round(len(demos) * share / (1 - share))
            demos += place.chat(seat.policy, wanted, f"{config.seed}/chat")
        yield from warm_up(config, seat, demos)
        own = table[Player.DEFENDER]
        if place.world and config.game.reply_format and own.optimizer is not seat.optimizer:
            told = place.world.thinking(config.warm_up.pool_size, f"{config.seed}")
            yield from warm_up(config, own, told)

    return run


def _check_fields(needs: frozenset[str], judge: Judge, exchanges: int) -> None:
    """Refuse at the door a term that no judge can tell."""
    missing = needs - judge.fills
    terms = {"on_topic": "game.gate=false", "helpful": "game.helpfulness=0"}
    if exchanges > 1:
        terms |= dict.fromkeys(("reply_harm", "refused"), "game.exchanges=1")
    ways = dict.fromkeys(f"set {terms[name]}" for name in sorted(missing & terms.keys()))
    if missing:
        raise UsageError(
            f"judge.kind: {judge.name} does not fill {', '.join(sorted(missing))}, which the game "
            f"needs; add a judge that does, or {' and '.join(ways) or 'change game.payoff'}"
        )
