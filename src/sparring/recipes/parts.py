"""From settings to parts: models and seats, judges, seeds and exams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from sparring.data.readers import read, read_pool
from sparring.data.splits import hold_out
from sparring.evaluation.metrics import distinct_attacks, of_episodes
from sparring.games.rewrite import Briefs, attack_of, attacks_of
from sparring.judges.judge import Judge
from sparring.judges.keyword import KeywordJudge
from sparring.learners.grpo import Grpo, GrpoConfig
from sparring.learners.optimizer import LearningRate, Optimizer
from sparring.learners.sft import SftConfig, sft
from sparring.policies.chat import Chat
from sparring.policies.local import LocalPolicy, Sampling
from sparring.policies.policy import Policy
from sparring.policies.weights import Weights, adapters, load_model, load_tokenizer, stop_ids
from sparring.recipes.recipe import Seat, Sets
from sparring.sandbox.codewords import strategy_name
from sparring.sandbox.language import ADVERSARIAL, Language
from sparring.sandbox.model import SHIPPED, language_of, one_thread
from sparring.sandbox.world import World
from sparring.settings import SANDBOX, RunConfig
from sparring.types import Demo, Episode, Metrics, Player, Seed, State, UsageError


@dataclass(frozen=True)
class Setting:
    """Where a game is played: the seeds, who judges them, how attackers are briefed and tested."""

    seeds: Sequence[Seed]
    judge: Judge
    briefs: Briefs
    held_out: Sets
    pooled: Mapping[str, Sequence[str]]
    pool: Sequence[Demo]
    notes: Sequence[str]
    world: World | None = None
    examiner: Policy | None = None
    """Attacks where the exam's openings are not dealt."""

    def measure(self, episodes: Sequence[Episode]) -> Metrics:
        """A round's metrics; where strategies can be told, what the attacker's rewrites are."""
        metrics = of_episodes(episodes)
        return metrics | strategies(self.world.language, episodes) if self.world else metrics


def setting(config: RunConfig) -> Setting:
    """The sandbox, or the user's own seeds."""
    if config.defender.warm_start:
        raise UsageError("defender.warm_start: only the attacker is warmed up")
    return _sandbox(config) if config.in_sandbox else _own(config)


def model_path(name: str) -> str:
    """Where a model lies; `sandbox` is the shipped one."""
    return str(SHIPPED) if name == SANDBOX else name


def _sandbox(config: RunConfig) -> Setting:
    one_thread()
    unread = {"attacker.warm_start": config.attacker.warm_start, "data.exam": config.data.exam}
    for name, told in unread.items():
        if told:
            raise UsageError(f"{name}: the sandbox makes its own; it goes with data.train")
    world = World(language_of(Path(model_path(config.defender.model_name_or_path))))
    if config.judge.kind != SANDBOX:
        raise UsageError(
            f"judge.kind: {config.judge.kind} cannot rule in the sandbox, which has its own judge; "
            "give data.train a seed file, or leave judge.kind out"
        )
    warm, several = config.warm_up, config.game.exchanges > 1
    pool = world.pool(warm.pool_size, warm.pool_encodings, f"{config.seed}")
    held_out = world.exam(config.exam.n, "exam")
    if several:
        games = round(warm.pool_dialogues * warm.pool_size)
        pool += world.dialogues(games, warm.pool_encodings, f"{config.seed}")
        held_out |= world.two_exchange_exam(config.exam.n)
    return Setting(
        seeds=world.seeds(world.language.train),
        judge=world.judge,
        briefs=world.briefs,
        held_out=held_out,
        pooled={
            "harmful/adversarial": [f"harmful/{family}" for family in ADVERSARIAL],
            "benign/wrapped": [f"benign/{family}" for family in ADVERSARIAL],
        },
        pool=pool,
        notes=(),
        world=world,
        examiner=world.two_exchange_attacker() if several else None,
    )


def _own(config: RunConfig) -> Setting:
    seeds, notes = _read_all([s.model_dump() for s in config.data.train])
    if config.data.exam:
        held, more = _read_all([s.model_dump() for s in config.data.exam])
        examined = {seed.text for seed in held}
        twice = sum(seed.text in examined for seed in seeds)
        seeds = [seed for seed in seeds if seed.text not in examined]
        notes += (
            [*more, f"{twice} seeds of data.exam were left out of data.train"] if twice else more
        )
    else:
        seeds, held = hold_out(seeds, config.exam.holdout, f"{config.seed}/holdout")
    if not any(seed.harmful for seed in seeds):
        raise UsageError("data.train: no harmful seeds, so there is nothing to attack")
    if all(seed.harmful for seed in seeds):
        notes.append("no benign seeds: over-refusal is not measured, and refusing everything wins")
    judge = judge_named(config.judge.kind)
    notes += [judge.caveat] if judge.caveat else []
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
        notes=notes,
    )


def _as_it_stands(seed: Seed) -> State:
    return State(seed).deal(Player.ATTACKER, seed.text)


def _read_all(sources: Sequence[Mapping[str, Any]]) -> tuple[list[Seed], list[str]]:
    seeds: list[Seed] = []
    notes: list[str] = []
    for source in sources:
        found = read(source["path"], source["limit"])
        seeds += found.seeds
        notes += [f"{source['path']}: {note}" for note in found.notes]
    twice = [name for name, n in Counter(seed.id for seed in seeds).items() if n > 1]
    if twice:
        raise UsageError(f"data: {len(twice)} ids occur in more than one file, such as {twice[0]}")
    return seeds, notes


def judge_named(kind: str, field: str = "judge.kind") -> Judge:
    """The judge of that kind for a user's own seeds; errors name the `field` that asked for it."""
    known: dict[str, type[KeywordJudge]] = {"keyword": KeywordJudge}
    if kind not in known:
        raise UsageError(
            f"{field}: {kind} cannot judge your own seeds; known: {', '.join(known)} "
            "(the sandbox's judge only knows the sandbox's language)"
        )
    return known[kind]()


def packaged_briefs(exchanges: int = 1) -> Briefs:
    """The attacker's system prompts for real models; how to go on where exchanges may follow."""
    folder = files("sparring.games") / "briefs"
    told = {
        n: (folder / f"{n}.md").read_text("utf-8").strip() for n in ("harmful", "benign", "again")
    }
    more = f"\n\n{told['again']}" if exchanges > 1 else ""
    return Briefs(told["harmful"] + more, told["benign"] + more)


def seats(config: RunConfig) -> dict[Player, Seat]:
    """Models, policies and learners for both players, sharing what `weights` says they share."""
    paths = {p: model_path(_player(config, p).model_name_or_path) for p in Player}
    dtype = config.defender.dtype
    if config.weights == "separate":
        owned = {p: Weights(load_model(paths[p], _player(config, p).dtype)) for p in Player}
    elif paths[Player.ATTACKER] != paths[Player.DEFENDER]:
        raise UsageError(
            f"weights: {config.weights} needs one base, but attacker.model_name_or_path and "
            "defender.model_name_or_path differ; make them equal or set weights=separate"
        )
    elif config.weights == "shared":
        path = paths[Player.DEFENDER]
        both = _seat(config, Player.DEFENDER, Weights(load_model(path, dtype)), path)
        return dict.fromkeys(Player, both)
    else:
        base = load_model(paths[Player.DEFENDER], dtype)
        lora = {player: _player(config, player).lora.model_dump() for player in Player}
        owned = adapters(base, lora, config.seed)
    return {player: _seat(config, player, owned[player], paths[player]) for player in Player}


def _player(config: RunConfig, player: Player) -> Any:
    return config.attacker if player is Player.ATTACKER else config.defender


def _seat(config: RunConfig, player: Player, weights: Weights, path: str) -> Seat:
    told = config.learner
    chat = Chat(load_tokenizer(path), stop_ids(weights.model))
    sampling = Sampling(**config.sampling.model_dump())
    step = told.optimizer
    rate = LearningRate(
        told.learning_rate[player], step.lr_scheduler_type, step.warmup_steps, step.total_steps
    )
    grpo = GrpoConfig(
        loss=told.loss,
        epsilon=told.epsilon,
        beta=told.beta,
        temperature=sampling.temperature,
        updates_per_batch=step.updates_per_batch,
        longest=sampling.max_completion_length,
        micro_batch_tokens=step.micro_batch_tokens,
    )
    optimizer = Optimizer(weights, rate, max_grad_norm=step.max_grad_norm)
    return Seat(LocalPolicy(weights, chat, sampling), Grpo(optimizer, chat.pad_id, grpo), path)


def warm_up(config: RunConfig, seat: Seat, pool: Sequence[Demo]) -> Iterator[Metrics]:
    """Phase 1: teach the attacker its format and its strategies, by imitation."""
    told = config.warm_up
    if not pool or not told.steps:
        return
    steps = told.steps
    rate = LearningRate(told.learning_rate, "cosine", min(10, steps), steps)
    optimizer = Optimizer(seat.policy.weights, rate)
    budget = config.learner.optimizer.micro_batch_tokens
    sizes = SftConfig(steps, told.batch_size, budget)
    yield from sft(optimizer, seat.chat, pool, sizes, f"{config.seed}/warm-up")


def strategies(language: Language, episodes: Sequence[Episode]) -> Metrics:
    """Shares of the attacker's distinct rewrites by strategy; only faithful ones count by name."""
    played = distinct_attacks(e for e in episodes if not e.state.dealt)
    names = [_strategy(language, state) for state in played]
    return {f"strategy/{name}": n / len(names) for name, n in sorted(Counter(names).items())}


def _strategy(language: Language, state: State) -> str:
    if attack_of(state) is None:
        return "unparseable"
    attacks = [attack for attack in attacks_of(state) if attack is not None]
    return strategy_name(language, attacks) if state.verdict.on_topic else "unfaithful"
