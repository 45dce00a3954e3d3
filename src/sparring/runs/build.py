"""From a configuration to a run: rules, openings, turns, memory and opponents put together."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import ceil

from sparring import credit
from sparring.arena import Cast
from sparring.coevolve import Plan
from sparring.data.splits import draw
from sparring.diversity import Similarity, bag_of_words, diversity_metrics, embedded, rewarded
from sparring.exam import Trial
from sparring.games.dialogue import Dialogue
from sparring.games.game import Game
from sparring.games.payoffs import MAGIC, LabelPayoff, Payoff, ScorePayoff, SelfRedTeamPayoff
from sparring.judges.judge import Judge
from sparring.judges.panel import split_over_ranks
from sparring.memory.experience import Defence, ExperiencePool, PoolLimits, score_named
from sparring.memory.league import League, nash, uniform
from sparring.memory.memory import Memory, Opposition
from sparring.memory.mutation import Mutation
from sparring.memory.oracle import DoubleOracle
from sparring.memory.reflection import Reflecting
from sparring.metrics import SEEDS_OF, episode_metrics
from sparring.players.fast import why_plain
from sparring.players.ranks import launched
from sparring.players.trainer import ChatBatch, SftConfig, Trainer, rows_of
from sparring.players.weights import LearningRate
from sparring.runs.judges import judges_of
from sparring.runs.models import fitted, pinned, trainers, with_quicker_dtype
from sparring.runs.run import Objects, Run
from sparring.runs.sources import Source, own_data, sandbox, strategies
from sparring.schedules import Schedule, alternate, always, by_metric, solo
from sparring.settings.config import RunConfig
from sparring.types import Demo, Episode, Metrics, Player, Seed, State, Turn, UsageError

CHAT_ROWS = 4_000
"""Demonstrations of ordinary chat that a trainer draws its batches from."""
NO_OBJECTS = Objects()


def build(config: RunConfig, objects: Objects = NO_OBJECTS) -> Run:
    """The run that a configuration describes; loads models, those of the hub at one commit."""
    objects.check(config)
    _check_mutation(config)
    _check_hardening(config)
    config, notes = pinned(config, objects.models)
    ranks = launched(_patience(config))
    config, dtypes = with_quicker_dtype(config, ranks, objects.models)
    config, sizes = fitted(config, ranks, objects.models)
    if config.in_sandbox:
        source = sandbox(config)
    else:
        source = own_data(config, objects.seeds, objects.judge)
    judge = split_over_ranks(source.judge, ranks)
    payoff, rules = objects.payoff or _payoff(config), config.game
    game = Dialogue(payoff, source.briefs, rules.gate, rules.exchanges, rules.reply_format)
    _check_fields(game.needs, judge, rules.exchanges)
    seeds, exam = source.seeds, source.exam(game, judge)
    trained = trainers(config, ranks, objects.models)
    _add_chat_batch(config, trained[Player.DEFENDER], source)
    memory = _memory(config, payoff.held)
    similarity = embedded(rules.embedding_model) if rules.embedding_model else bag_of_words
    league = _league(config, trained, game, judge, seeds)
    hardening = _hardening(config, trained, league)
    opposition = hardening or league
    plan = Plan(
        game=game,
        judge=judge,
        openings=partial(_openings, config, seeds, game),
        schedule=hardening or _schedule(config),
        cast=_reflecting(trained, memory, source),
        learners=trained,
        estimator=getattr(credit, config.learner.advantage),
        rounds=config.rounds,
        rng_seed=str(config.seed),
        measure=partial(_measure, source.strategy, similarity if rules.embedding_model else None),
        shape=lambda episodes: (
            episodes
            if hardening and hardening.attacking
            else rewarded(episodes, rules.diversity, similarity)
        ),
        memory=memory,
        league=Mutation(opposition, rules.mutation) if rules.mutation else opposition,
    )
    return Run(
        config=config,
        plan=plan,
        exam=replace(exam, second=exam.second and split_over_ranks(exam.second, ranks)),
        seeds=seeds,
        warm_up=partial(_warm_up, config, source, trained),
        notes=(*source.notes, *notes, *dtypes, *sizes, *_slow(trained), *_too_short(config)),
        world=source.world,
        strategy=source.strategy,
    )


def _too_short(config: RunConfig) -> list[str]:
    """A note where a run is over before its hardening begins."""
    after = config.schedule.harden_after
    if after is None or config.rounds > after:
        return []
    return [f"schedule.harden_after={after}: this run of {config.rounds} rounds ends before that"]


def _slow(trained: Mapping[Player, Trainer]) -> list[str]:
    """A note on each reason for which models of this run learn in the slow way."""
    reasons = {why_plain(trainer.weights.model) for trainer in trained.values()} - {""}
    return [
        f"learning runs a prompt again for each of its completions, which is slower: {reason}"
        for reason in sorted(reasons)
    ]


def _patience(config: RunConfig) -> float:
    """Seconds for which one process waits for the others, while they play, learn or judge."""
    servers = [judge.server for _, judge in judges_of(config)]
    return 3600 + max((s.round_deadline + s.outage_seconds for s in servers), default=0.0)


def _measure(
    strategy: Callable[[State], str], similarity: Similarity | None, episodes: Sequence[Episode]
) -> Metrics:
    """A round's metrics, with the strategies of the attacker's rewrites."""
    metrics = episode_metrics(episodes) | diversity_metrics(episodes, similarity)
    return metrics | strategies(strategy, episodes)


def _reflecting(players: Cast, memory: Memory, source: Source) -> Cast:
    """The cast, the defender reflecting on its replays if that is set."""
    if not (isinstance(memory, ExperiencePool) and memory.limits.reflect):
        return players
    defender = Reflecting(players[Player.DEFENDER], memory, source.wording)
    return {**players, Player.DEFENDER: defender}


def _check_fields(needs: frozenset[str], judge: Judge, exchanges: int) -> None:
    """Refuse a game that needs a field of the verdict which the judge does not fill."""
    missing = sorted(needs - judge.fills)
    cures = {"on_topic": "set game.gate=false", "helpful": "set game.helpfulness=0"}
    if exchanges > 1:
        cures |= dict.fromkeys(("reply_harm", "refused"), "set game.exchanges=1")
    ways = dict.fromkeys(cures[name] for name in missing if name in cures)
    if missing:
        raise UsageError(
            f"judge.kind: {judge.name} does not fill {', '.join(missing)}, which the game "
            f"needs; add a judge that does, or {' and '.join(ways) or 'change game.payoff'}"
        )


def _payoff(config: RunConfig) -> Payoff:
    rules = config.game
    payoffs: dict[str, Payoff] = {
        "magic": LabelPayoff(MAGIC, rules.format, rules.helpfulness),
        "score": ScorePayoff(),
        "self_redteam": SelfRedTeamPayoff(rules.format),
    }
    return payoffs[rules.payoff]


def _add_chat_batch(config: RunConfig, trainer: Trainer, source: Source) -> None:
    """Let the trainer imitate a batch of ordinary chat after every update, if one is set."""
    size, rng_seed = config.learner.chat_batch, f"{config.seed}/chat"
    if size and not (config.in_sandbox or config.defender.warm_start):
        raise UsageError(
            "learner.chat_batch: give defender.warm_start a JSONL file of ordinary chat (the "
            "model's own answers could serve only if they were sampled before training)"
        )
    if size:
        rows = rows_of(trainer.chat, source.chat(trainer, CHAT_ROWS, rng_seed))
        trainer.chat_batch = ChatBatch(rows, size, rng_seed)


def _memory(config: RunConfig, defence_score: Defence) -> Memory:
    """The experience pool, or none; `defence_score` says how well the defender did in a game."""
    pool = config.memory.experience
    if pool.sampler != "none":
        limits = PoolLimits(**pool.fields_of(PoolLimits))
        score = score_named(pool.sampler, pool.ucb_c)
        return ExperiencePool(defence_score, score, limits, f"{config.seed}/replay")
    if pool.reflect:  # otherwise the setting would be ignored without a word
        raise UsageError(
            "memory.experience.reflect: there is no pool whose failures could be shown; set "
            "memory.experience.sampler=ucb, or leave it out"
        )
    return Memory()


def _league(
    config: RunConfig,
    players: Mapping[Player, Trainer],
    game: Game,
    judge: Judge,
    seeds: Sequence[Seed],
) -> Opposition:
    """Past selves as opponents, or only the present ones.

    Selves are measured against each other on training seeds, never on the exam's.
    """
    league = config.memory.league
    if league.opponents == "latest":
        return Opposition()
    harmful = [seed for seed in seeds if seed.harmful]
    random.Random(f"{config.seed}/league").shuffle(harmful)  # a file may be sorted by topic
    openings = [game.open(harmful[k % len(harmful)]) for k in range(league.trials)]
    return League(
        players=players,
        opponents={"nash": nash, "uniform": uniform}[league.opponents],
        trial=Trial(game, judge, openings, "league"),
        every=league.keep_every,
        share=league.share,
        rng_seed=f"{config.seed}/league",
    )


def _check_mutation(config: RunConfig) -> None:
    """Refuse a run in which no attack would be mutated."""
    if not config.game.mutation:
        return
    if config.data.as_they_stand == 1:
        raise UsageError("game.mutation: there are no attacks to change where data.as_they_stand=1")
    alone = any(turn.learns == {Player.DEFENDER} for turn in config.turns.values())
    leagues = config.memory.league.opponents != "latest"
    if not (alone or leagues or config.schedule.harden_after is not None):
        raise UsageError(
            "game.mutation: only attacks of rounds in which the defender alone learns are changed, "
            "and here the attacker always learns too; set schedule.kind=alternate, or leave it out"
        )


def _check_hardening(config: RunConfig) -> None:
    """Refuse settings under which a hardened run cannot be played."""
    rules = config.schedule.oracle(config.rounds)
    if rules is None:
        return
    fewest = rules.after + rules.steps + rules.fewest
    wrong = {
        "weights: attackers begin anew, so they need weights of their own; set weights=adapters or "
        "weights=separate": config.weights == "shared",
        f"rounds: the first rounds, an attacker and its answer take {fewest}": rules.after
        < config.rounds
        < fewest,
        "learner.optimizer.lr_scheduler_type: an attacker that begins anew needs the full rate; "
        "set it to constant": config.learner.optimizer.lr_scheduler_type != "constant",
        "data.as_they_stand: requests that nobody rewrites say nothing of an attacker; set "
        "data.as_they_stand=0": config.data.as_they_stand > 0,
    }
    for what, holds in wrong.items():
        if holds:
            name, _, why = what.partition(": ")
            raise UsageError(f"{name}: schedule.harden_after cannot be played so: {why}")


def _hardening(
    config: RunConfig, players: Mapping[Player, Trainer], league: Opposition
) -> DoubleOracle | None:
    """What is the schedule and the league of a run that hardens its defender.

    An attacker's rounds are those of `sparring exploit`: harmful seeds alone, twice the attacks on
    half as many of them, and no reward but the game's.
    """
    rules = config.schedule.oracle(config.rounds)
    if rules is None:
        return None
    replies, siblings = config.schedule.replies_per_attack, config.learner.num_generations
    turns = {p: solo(p, siblings[p] * (1 + (p is Player.ATTACKER)), replies) for p in Player}
    return DoubleOracle(players, turns, rules, _schedule(config), league)


def _openings(
    config: RunConfig,
    seeds: Sequence[Seed],
    game: Game,
    _number: int,
    turn: Turn,
    past: Sequence[Metrics],
) -> list[State]:
    """A round's openings; a share `as_they_stand` of each label skips the attacker.

    The metrics of past rounds tell where this round's seeds begin, so a resumed run continues
    like an uninterrupted one.
    """
    size = max(config.learner.seeds_per_round[player] for player in turn.learns)
    played = {label: sum(int(m[name]) for m in past) for label, name in SEEDS_OF.items()}
    rules = config.schedule.oracle(config.rounds)
    harmful_share = config.data.harmful
    if rules and rules.attacks(past):
        size, harmful_share = ceil(size / 2), 1.0
    drawn = draw(seeds, played, size, f"{config.seed}/seeds", harmful_share)
    plain: set[int] = set()
    for harmful in (True, False):
        places = [i for i, seed in enumerate(drawn) if seed.harmful == harmful]
        plain |= set(places[: round(config.data.as_they_stand * len(places))])
    return [
        State(seed).deal(Player.ATTACKER, seed.text) if i in plain else game.open(seed)
        for i, seed in enumerate(drawn)
    ]


def _schedule(config: RunConfig) -> Schedule:
    schedule, turns = config.schedule, config.turns
    if len(turns) == 1:
        return always(turns[Player.DEFENDER])
    if schedule.kind == "alternate":
        return alternate(turns, {player: schedule.every[player] for player in Player})
    return by_metric(turns, schedule.limits, schedule.window, schedule.dwell)


def _warm_up(
    config: RunConfig, source: Source, trained: Mapping[Player, Trainer]
) -> Iterator[Metrics]:
    """Phase 1 by imitation: the attack pool, with ordinary chat beside it if a share is set.

    It yields each step's metrics, named after the player that imitates.

    A defender with weights of its own imitates the source's lessons for it.
    """
    warm, demos = config.warm_up, list(source.pool)
    attacker, defender = trained[Player.ATTACKER], trained[Player.DEFENDER]
    if demos and warm.chat:
        if source.world is None:  # a real model takes long to reply: no more than is imitated
            rows = warm.steps[Player.ATTACKER] * warm.batch_size * (1 - warm.chat)
            due = min(len(demos), ceil(rows))
            demos = random.Random(f"{config.seed}/pool").sample(demos, due)
        n = round(len(demos) * warm.chat / (1 - warm.chat))
        demos += source.chat(attacker, n, f"{config.seed}/chat")
    lessons: dict[Player, Sequence[Demo]] = {Player.ATTACKER: demos}
    if defender is not attacker:
        lessons[Player.DEFENDER] = source.lessons(warm.pool_size, f"{config.seed}")
    for player, imitated in lessons.items():
        trainer, steps = trained[player], warm.steps[player]
        if imitated and steps:
            rate = LearningRate(warm.learning_rate, "cosine", min(10, steps), steps)
            sizes = SftConfig(steps, warm.batch_size, trainer.grpo.config.micro_batch_tokens)
            for metrics in trainer.warm_up(imitated, rate, sizes, f"{config.seed}/warm-up"):
                yield {f"{player}/{name}": value for name, value in metrics.items()}
