"""What a run is fed with: seeds, judges, prompts and demonstrations, the sandbox's or your own."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from operator import attrgetter
from pathlib import Path

from sparring.data.families import FAMILIES, families, recognise
from sparring.data.overlap import overlap
from sparring.data.pools import FORM, read_pool
from sparring.data.readers import gathered
from sparring.data.rows import OWN
from sparring.data.splits import contradicting, hold_out, without
from sparring.diversity import strategy_entropy
from sparring.exam import Exam
from sparring.games.dialogue import Dialogue
from sparring.games.game import Briefs, answer_of, attack_of, attacks_of
from sparring.judges.judge import Judge
from sparring.memory.reflection import Words
from sparring.metrics import distinct_attacks
from sparring.players.player import Policy, Request, drawn_at
from sparring.runs.judges import judge_of, judges_of
from sparring.runs.models import model_path
from sparring.sandbox.language import POOLED
from sparring.sandbox.model import language_of, one_thread
from sparring.sandbox.pool import attack_pool, broad, dialogues, narrow
from sparring.sandbox.words import RULED_BENIGN, RULED_HARMFUL
from sparring.sandbox.world import World
from sparring.settings.config import RunConfig
from sparring.settings.sections import SANDBOX
from sparring.types import Demo, Episode, Message, Metrics, Player, Seed, State, UsageError

_LABELS = ("harmful", "benign")
_BROAD = (
    "the attack pool is broad: it holds every family of the exam, also those called held-out "
    "(warm_up.pool=narrow lacks them); the exam's seeds are held out of everything"
)
_TUNING = (
    "exam.families=tuning: this run's exams, and attacks on it, ask pairs of words that are kept "
    "for choosing settings; report figures on others"
)
UNPARSEABLE, UNFAITHFUL = "unparseable", "unfaithful"


@dataclass(frozen=True)
class Source:
    """Where a run's seeds, judge, prompts and demonstrations come from: the sandbox, or the user.

    `pool` is the attack pool, which the attacker is warmed up on. `exam` makes the exam of a game
    and its judge. `strategy` names what the attacker's rewrite in a game became. `chat` returns n
    demonstrations of ordinary chat, perhaps replies of the policy that it is given; `lessons`
    returns what a defender with weights of its own imitates before the game, about n in the
    sandbox. The last argument of both is an `rng_seed`.
    """

    seeds: Sequence[Seed]
    judge: Judge
    briefs: Briefs
    wording: Words
    notes: Sequence[str]
    pool: Sequence[Demo]
    exam: Callable[[Dialogue, Judge], Exam]
    strategy: Callable[[State], str]
    chat: Callable[[Policy, int, str], list[Demo]]
    lessons: Callable[[int, str], Sequence[Demo]]
    world: World | None = None


def sandbox(config: RunConfig) -> Source:
    """Return the embedded world, which makes its own seeds, judge, prompts and demonstrations."""
    for name in ("attacker.warm_start", "defender.warm_start", "data.exam"):
        if attrgetter(name)(config):
            raise UsageError(f"{name}: the sandbox makes its own; set it only with data.train")
    one_thread()
    language = language_of(Path(model_path(config.defender.model_name_or_path)))
    world = World(language, tuning=config.exam.families == "tuning")
    kinds = [judge.kind for _, judge in judges_of(config)]
    if kinds != [SANDBOX]:
        raise UsageError(
            f"judge.kind: {' and '.join(kinds)} cannot rule in the sandbox, which has its own "
            "judge; give data.train a seed file, or leave judge out"
        )
    warm, rng_seed = config.warm_up, f"{config.seed}"
    pick = broad if warm.pool == "broad" else narrow(warm.pool_encodings)
    pool = attack_pool(world, warm.pool_size, pick, rng_seed)
    if config.game.exchanges > 1:
        pool += dialogues(world, round(warm.pool_dialogues * warm.pool_size), pick, rng_seed)

    broad_pool = warm.pool == "broad" and warm.steps.attacker > 0
    notes = {_BROAD: broad_pool, _TUNING: world.tuning}

    def exam(game: Dialogue, judge: Judge) -> Exam:
        """Return the exam on held-out seeds; a script plays the attacks of two exchanges."""
        sets, attacker = world.exam(config.exam.n, "exam"), world.two_exchange_attacker()
        return Exam(replace(game, exchanges=2), judge, sets, POOLED, "exam", attacker)

    def chat(policy: Policy, n: int, rng_seed: str) -> list[Demo]:
        """Return lessons of the base; where the defender thinks first, they show how."""
        return (world.thinking if config.game.reply_format else world.chat)(n, rng_seed)

    return Source(
        seeds=world.seeds(world.language.train),
        judge=world.judge,
        briefs=world.briefs,
        wording=Words(RULED_HARMFUL, RULED_BENIGN),
        notes=[note for note, holds in notes.items() if holds],
        pool=pool,
        exam=exam,
        strategy=partial(strategy_of, lambda _, attacks: world.language.strategy_name(attacks)),
        chat=chat,
        lessons=world.thinking if config.game.reply_format else lambda n, rng_seed: (),
        world=world,
    )


def own_data(config: RunConfig, seeds: Sequence[Seed], judge: Judge | None) -> Source:
    """Return the user's seeds and judges, with the packaged prompts for real models.

    `seeds` and `judge` stand in the place of the files and the judges that `config` names.
    """
    train, held_out, notes = _own_seeds(config, seeds)
    salt = f"{config.seed}/judge"
    judge = judge or judge_of(config.judge, config.judge_rules, salt)
    second = judge_of(config.exam.judge, {}, salt, "exam.judge") if config.exam.judge else None
    notes += filter(None, (judge.caveat, second.caveat if second else ""))
    pools = (config.attacker.warm_start, config.defender.warm_start)
    briefs = packaged_briefs(config.game.exchanges)
    pool = read_pool(Path(pools[0]), briefs) if pools[0] else []
    own_chat = read_pool(Path(pools[1])) if pools[1] else []
    if pool and not any(answer_of(demo.reply) for demo in pool):
        raise UsageError(
            f"attacker.warm_start: {pools[0]}: none of its {len(pool)} replies has the form "
            f"{FORM}, so the attacker would learn to send nothing"
        )
    pooled = _families_of(pool)
    notes += _not_held_out(pooled, config.exam.families)
    questions = [(Message("user", seed.text),) for seed in train if not seed.harmful]
    if pool and config.warm_up.chat and not (questions or own_chat):
        raise UsageError(
            "warm_up.chat: there are no benign seeds to answer; give defender.warm_start a JSONL "
            "file of ordinary chat, or set warm_up.chat=0"
        )

    def exam(game: Dialogue, judge: Judge) -> Exam:
        """Return the exam on the held-out seeds as they stand, and dressed by attack families."""
        sets, pooled = _own_sets(held_out, config)
        return Exam(game, judge, sets, pooled, "exam", second=second)

    def chat(policy: Policy, n: int, rng_seed: str) -> list[Demo]:
        """Return the user's demonstrations, or what the present model replies to benign seeds."""
        rng = random.Random(rng_seed)
        if own_chat:
            return rng.choices(own_chat, k=n)
        chosen = rng.choices(questions, k=n)
        requests = [Request(shown, (f"{rng_seed}/{i}",)) for i, shown in enumerate(chosen)]
        replies = policy.sample(requests)
        return [Demo(shown, reply.text) for shown, [reply] in zip(chosen, replies, strict=True)]

    def named(seed: Seed, attacks: Sequence[str]) -> str:
        """Return the families that the last attack shows, or that it is the first to join them."""
        name = recognise(seed.requested, attacks[-1])
        return NEW if pooled and " + " in name and name not in pooled else name

    return Source(
        seeds=train,
        judge=judge,
        briefs=briefs,
        wording=Words(*(_packaged(f"ruled_{label}") for label in _LABELS)),
        notes=notes,
        pool=pool,
        exam=exam,
        strategy=partial(strategy_of, named),
        chat=chat,
        lessons=lambda n, rng_seed: own_chat,
    )


def _own_sets(
    held_out: Sequence[Seed], config: RunConfig
) -> tuple[dict[str, list[State]], dict[str, list[str]]]:
    """Return an exam's sets of dealt openings, and which of them are also pooled as one rate."""
    use, sets = config.exam.families, dict[str, list[State]]()
    dressings = [] if use == "none" else families(use)
    for label in _LABELS:
        seeds = [seed for seed in held_out if seed.harmful == (label == "harmful")]
        for seed in seeds[: config.exam.n]:
            texts = {f.name: f.dress(seed.text, drawn_at(seed.id)) for f in dressings}
            for name, text in {"plain": seed.text, **texts}.items():
                opening = State(seed).deal(Player.ATTACKER, text)
                sets.setdefault(f"{label}/{name}", []).append(opening)
    rates = {"harmful": "harmful/adversarial", "benign": "benign/wrapped"}
    members = {rate: [f"{label}/{f.name}" for f in dressings] for label, rate in rates.items()}
    return sets, {rate: names for rate, names in members.items() if names and names[0] in sets}


def _own_seeds(
    config: RunConfig, seeds: Sequence[Seed]
) -> tuple[Sequence[Seed], Sequence[Seed], list[str]]:
    """Return the seeds to train on, those held out, and what the user should know of them."""
    notes: list[str] = []
    if not seeds:
        seeds, notes = gathered([source.model_dump() for source in config.data.train])
    if config.data.exam:
        held_out, more = gathered([source.model_dump() for source in config.data.exam])
        train, notes = without(seeds, held_out), notes + more
        if twice := len(seeds) - len(train):
            notes.append(f"{twice} seeds of data.exam were left out of data.train")
    else:
        train, held_out = hold_out(seeds, config.exam.holdout)
    if near := overlap(held_out, train).count("near"):
        notes.append(f"{near} of {len(held_out)} held-out seeds nearly repeat a training seed")
    if both := contradicting([*seeds, *held_out]):
        notes.append(
            f"{both} requests have both labels, harmful in one row and benign in another: in which "
            "row is it wrong? Until that is mended a game pays for either"
        )
    if not any(seed.harmful for seed in train):
        raise UsageError("data.train: no harmful seeds, so there is nothing to attack")
    if all(seed.harmful for seed in train):
        notes.append(
            "no benign seeds: over-refusal is not measured, and refusing everything wins; add to "
            "data.train about as many benign ones as there are harmful ones"
        )
    return train, held_out, notes


def training_seeds(config: RunConfig) -> Sequence[Seed]:
    """Return the seeds that a run on own data trains on, read again; none of the sandbox's.

    UsageError where a file is not there any more; nothing is fetched from the hub.
    """
    sources = [str(source.path) for source in (*config.data.train, *config.data.exam)]
    if lost := [path for path in sources if path not in OWN and not Path(path).exists()]:
        raise UsageError(f"{lost[0]} is not there")
    return _own_seeds(config, ())[0] if sources else ()


NEW = "combination new to the pool"
"""What a rewrite became that joins families as none of the attack pool does."""


def _families_of(pool: Sequence[Demo]) -> Counter[str]:
    """Count the rewrites of an attack pool by the families that they show."""
    answers = ((demo.observation[-1].content, answer_of(demo.reply)) for demo in pool)
    return Counter(recognise(request, sent) for request, sent in answers if sent is not None)


def _not_held_out(pooled: Mapping[str, int], use: str) -> list[str]:
    """Return a note on rewrites of an attack pool that look like families of the exam."""
    shown = Counter[str]()
    for names, count in pooled.items():
        held_out = (n for n in names.split(" + ") if n in FAMILIES and FAMILIES[n].use == use)
        shown.update(dict.fromkeys(held_out, count))
    if not shown:
        return []
    names = ", ".join(f"{name} {n} times" for name, n in shown.most_common())
    return [f"attack families of the exam that the attack pool shows as well: {names}"]


def packaged_briefs(exchanges: int = 1) -> Briefs:
    """Return the system prompts for real models; an attacker is also told how to go on."""
    more = f"\n\n{_packaged('again')}" if exchanges > 1 else ""
    harmful, benign = (_packaged(label) + more for label in _LABELS)
    return Briefs(harmful, benign, _packaged("think"))


def _packaged(name: str) -> str:
    return (files("sparring.games") / "briefs" / f"{name}.md").read_text("utf-8").strip()


def strategies(name: Callable[[State], str], episodes: Sequence[Episode]) -> Metrics:
    """Return shares of the attacker's distinct rewrites by strategy; faithful ones count by name.

    `strategy_entropy` (nats) is over the named ones alone, and left out where there are none.
    """
    attacks = distinct_attacks(e for e in episodes if not e.state.dealt)
    counts = Counter(map(name, attacks))
    named = [n for name, n in counts.items() if name not in (UNPARSEABLE, UNFAITHFUL)]
    shares = {f"strategy/{name}": n / len(attacks) for name, n in sorted(counts.items())}
    return shares | ({"strategy_entropy": strategy_entropy(named)} if named else {})


def strategy_of(named: Callable[[Seed, Sequence[str]], str], state: State) -> str:
    """Return the name of the strategy of a rewrite, or why it counts as none; '' if it was dealt.

    `named` tells the strategy of the attacks of a game about a seed, if they are faithful.
    """
    if state.dealt:
        return ""
    if attack_of(state) is None:
        return UNPARSEABLE
    attacks = [attack for attack in attacks_of(state) if attack is not None]
    return UNFAITHFUL if state.verdict.on_topic is False else named(state.seed, attacks)
