"""From a configuration to a match: rules, openings, turns, memory and opponents put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from sparring import credit
from sparring.arena import Cast
from sparring.coevolve import Plan
from sparring.data.splits import draw
from sparring.diversity import bag_of_words, rewarded
from sparring.exam import Trial
from sparring.games.dialogue import Dialogue
from sparring.games.game import Game
from sparring.games.payoffs import MAGIC, LabelPayoff, Payoff, ScorePayoff, SelfRedTeamPayoff
from sparring.judges.judge import Judge
from sparring.judges.panel import shared
from sparring.memory.experience import ExperiencePool, Held, Rules, Sampler, thompson, ucb, uniform
from sparring.memory.league import Latest, League, Opposition, Versioned, nash
from sparring.memory.league import uniform as anyone
from sparring.memory.memory import Forgetful, Memory
from sparring.memory.reflection import Reflecting, Wording
from sparring.players.ranks import launched
from sparring.players.trainer import Trainer
from sparring.runs.parts import Setting, pinned, setting
from sparring.runs.run import Match
from sparring.runs.seats import trainers, warm_up
from sparring.schedules import Schedule, alternate, always, by_metric, solo
from sparring.settings.config import RunConfig
from sparring.types import Metrics, Player, Seed, State, Turn, UsageError


def memory(config: RunConfig, held: Held) -> Memory:
    """The experience pool, or none; `held` says how well the defence did.

    UsageError for a reflection on what nobody remembers: it would be a run without a word of it.
    """
    told = config.memory.experience
    samplers: Mapping[str, Sampler] = {
        "uniform": uniform,
        "ucb": ucb(told.ucb_c),
        "thompson": thompson,
    }
    if told.sampler not in samplers:
        if told.reflect:
            raise UsageError(
                "memory.experience.reflect: there is no pool whose failures could be shown; set "
                "memory.experience.sampler=ucb, or leave it out"
            )
        return Forgetful()
    rules = Rules(
        capacity=told.capacity,
        replay_share=told.replay_share,
        reexamine=told.reexamine,
        admit_below=told.admit_below,
        retire_at=told.retire_at,
        retire_after=told.retire_after,
        reflect=told.reflect,
    )
    return ExperiencePool(held, samplers[told.sampler], rules, f"{config.seed}/replay")


def reflecting(config: RunConfig, cast: Cast, pool: Memory, wording: Wording) -> Cast:
    """The cast, the defender reflecting on its replays if that is asked for."""
    if not (config.memory.experience.reflect and isinstance(pool, ExperiencePool)):
        return cast
    return {**cast, Player.DEFENDER: Reflecting(cast[Player.DEFENDER], pool, wording)}


def league(
    config: RunConfig,
    players: Mapping[Player, Versioned],
    game: Game,
    judge: Judge,
    seeds: Sequence[Seed],
) -> Opposition:
    """Past selves as opponents, or only the present ones.

    Selves are measured against each other on training seeds, never on the exam's.
    """
    told = config.memory.league
    if told.opponents == "latest":
        return Latest()
    harmful = [seed for seed in seeds if seed.harmful]
    openings = [game.open(harmful[k % len(harmful)]) for k in range(told.trials)]
    return League(
        players=players,
        opponents=nash if told.opponents == "nash" else anyone,
        trial=Trial(game, judge, openings, "league"),
        every=told.keep_every,
        share=told.share,
        rng_seed=f"{config.seed}/league",
    )


_BOTH = frozenset(Player)


def assemble(config: RunConfig) -> Match:
    """The match that a configuration describes; loads models, of the hub at one commit."""
    config, found = pinned(config)
    ranks = launched()
    place = setting(config)
    judge = shared(place.judge, ranks)
    payoff = _payoff(config)
    rules = config.game
    game = Dialogue(payoff, place.briefs, rules.gate, rules.exchanges, rules.reply_format)
    _check_fields(game.needs, judge, rules.exchanges)
    trained = trainers(config, place.chat, ranks)
    pool = memory(config, payoff.held)
    similarity = place.embedding or bag_of_words
    plan = Plan(
        game=game,
        judge=judge,
        openings=_openings(config, place, game),
        schedule=_schedule(config),
        cast=reflecting(config, trained, pool, place.wording),
        learners=trained,
        estimator=getattr(credit, config.learner.advantage),
        rounds=config.rounds,
        rng_seed=str(config.seed),
        measure=place.measure,
        shape=lambda episodes: rewarded(episodes, config.game.diversity, similarity),
        memory=pool,
        league=league(config, trained, game, judge, place.seeds),
    )
    return Match(
        config=config,
        plan=plan,
        examined=replace(game, exchanges=2) if place.examiner else game,
        trainers=trained,
        seeds=place.seeds,
        held_out=place.held_out,
        pooled=place.pooled,
        record_attacks=place.world is None,
        warm_up=_warm_up(config, place, trained),
        notes=(*place.notes, *found),
        world=place.world,
        examiner=place.examiner,
        ranks=ranks,
        second=place.second and shared(place.second, ranks),
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
    config: RunConfig, place: Setting, trained: Mapping[Player, Trainer]
) -> Callable[[], Iterator[Metrics]]:
    """The attack pool, with ordinary chat beside it if a share is asked for.

    A defender that thinks first and has weights of its own is shown how.
    """

    def run() -> Iterator[Metrics]:
        share, demos, attacker = config.warm_up.chat, list(place.pool), trained[Player.ATTACKER]
        if demos and share:
            wanted = round(len(demos) * share / (1 - share))
            demos += place.chat(attacker, wanted, f"{config.seed}/chat")
        yield from warm_up(config, attacker, demos)
        defender = trained[Player.DEFENDER]
        if place.world and config.game.reply_format and defender is not attacker:
            thoughts = place.world.thinking(config.warm_up.pool_size, f"{config.seed}")
            yield from warm_up(config, defender, thoughts)

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
