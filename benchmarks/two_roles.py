"""The smallest game of two roles, and a random Llama of 1.8 M parameters to play it with."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from sparring.coevolve import Plan, coevolve
from sparring.credit import standardized
from sparring.games.game import Briefs
from sparring.players.chat import Chat
from sparring.players.grpo import Grpo, GrpoConfig
from sparring.players.loading import load_model, load_tokenizer
from sparring.players.local import LocalPolicy
from sparring.players.player import Sampling
from sparring.players.ranks import ALONE, Ranks
from sparring.players.trainer import Trainer
from sparring.players.weights import LearningRate, Optimizer, Weights, adapters
from sparring.sandbox.language import Language
from sparring.sandbox.model import tokenizer
from sparring.schedules import always, solo
from sparring.types import JUDGE, Completion, Message, Player, Round, Seed, State, Verdict

SEEDS, GENERATIONS, LENGTH = 8, 8, 48
"""8 prompts × 8 attacks of 48 tokens, and a reply of 48 tokens to each."""
LORA = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}
RATE = 1e-4
_NEVER = "<|never|>"
_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|> ' + message['content'] + ' ' }}"
    "{% if message['role'] == 'assistant' %}{{ '" + _NEVER + " ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|> ' }}{% endif %}"
)


def save(folder: Path, hidden: int = 192, torch_seed: int = 0) -> Path:
    """Save the model and its tokenizer in `folder`.

    The end of a turn is a token the model has no logit for, so every completion is 48 tokens long
    here and in TRL, and both sample and train on the same number of tokens.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tokenizer(Language(0))
    vocabulary = len(words)
    words.add_special_tokens({"eos_token": _NEVER})
    words.chat_template = _TEMPLATE
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=words.pad_token_id,
        bos_token_id=None,
        eos_token_id=vocabulary,
    )
    torch.manual_seed(torch_seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def texts(folder: Path, tokens: int, seeds: int = SEEDS, own: int = 12) -> list[str]:
    """A user message for each seed: a brief that all share, and `own` words of the seed.

    With the chat template, each makes a prompt of `tokens` tokens. The shared brief stands for the
    instructions that the attacker of every published game gets.
    """
    chat = Chat(load_tokenizer(str(folder)))
    length = tokens - len(chat.prompt_ids((Message("user", ""),)))
    words = [word for word in Language(0).words if word.isalpha()]
    rng = random.Random("seeds")
    brief = rng.choices(words, k=max(0, length - own))
    user_texts = [
        " ".join([*brief, *rng.choices(words, k=length - len(brief))]) for _ in range(seeds)
    ]
    assert {len(chat.prompt_ids((Message("user", text),))) for text in user_texts} == {tokens}
    return user_texts


def pays(attack: str, reply: str) -> float:
    """The reward: a number in [0, 1) that is the same here and in TRL and differs by sibling."""
    return crc32(f"{attack}/{reply}".encode()) / 2**32


def is_flat(seed: int) -> bool:
    """Whether the siblings of this seed are paid alike, so that their advantages are zero."""
    return seed % 2 == 0


@dataclass(frozen=True)
class Pair:
    """The attacker answers the seed, the defender answers the attack, and `pays` is the reward."""

    flat: bool = False
    """Whether half of the groups are paid alike."""
    briefs: Briefs | None = None
    """The attacker's system prompts, if it has any."""
    needs: frozenset[str] = frozenset()

    def open(self, seed: Seed) -> State:
        return State(seed)

    def to_move(self, state: State) -> Any:
        order = (Player.ATTACKER, Player.DEFENDER, None if state.ruled else JUDGE)
        return order[len(state.moves)]

    def observe(self, state: State) -> tuple[Message, ...]:
        if state.moves:
            return (Message("user", state.moves[0].completion.text),)
        brief = (Message("system", self.briefs.of(state.seed)),) if self.briefs else ()
        return (*brief, Message("user", state.seed.text))

    def hear(self, state: State, completion: Completion) -> str:
        return completion.text

    def returns(self, state: State) -> Mapping[Player, float]:
        attack, reply = (move.completion.text for move in state.moves)
        flat = self.flat and is_flat(int(state.seed.id))
        paid = 0.5 if flat else pays(attack, reply)
        return {Player.ATTACKER: paid, Player.DEFENDER: 1 - paid}


@dataclass(frozen=True)
class Nobody:
    """A judge that gives empty verdicts at no cost."""

    name: str = "nobody"
    caveat: str = ""
    fills: frozenset[str] = frozenset()

    def rule(self, states: Sequence[State]) -> list[Verdict]:
        return [Verdict() for _ in states]


@dataclass(frozen=True)
class Task:
    """How the attacker learns; completions are `length` tokens long, `flat` is as in `Pair`."""

    lora: bool = False
    beta: float = 0.0
    flat: bool = False
    length: int = LENGTH


def rounds(
    folder: Path, seed_texts: Sequence[str], task: Task, ranks: Ranks = ALONE
) -> Iterator[Round]:
    """Steps in which the attacker learns against a frozen defender; `ranks` share each step."""
    path, length = str(folder), task.length
    if task.lora:
        own = adapters(load_model(path), dict.fromkeys(Player, LORA), torch_seed=0)
    else:
        own = {player: Weights(load_model(path)) for player in Player}
    # The whole step is one micro-batch, as on TRL's side.
    config = GrpoConfig(beta=task.beta, max_completion_length=length, micro_batch_tokens=10**9)
    chat = Chat(load_tokenizer(path))
    trainers = trainers_of(own, chat, Sampling(1.0, length), config, ranks)
    seeds = [Seed(text, True, str(i)) for i, text in enumerate(seed_texts)]
    return playing(trainers, Pair(task.flat), seeds)


def trainers_of(
    own: Mapping[Player, Weights],
    chat: Chat,
    sampling: Sampling,
    config: GrpoConfig,
    ranks: Ranks = ALONE,
) -> dict[Player, Trainer]:
    """A trainer for each player's weights, with TRL's moments."""
    trainers = {}
    for player, weights in own.items():
        optimizer = Optimizer(weights, LearningRate(RATE), betas=(0.9, 0.999), ranks=ranks)
        policy = LocalPolicy(weights, chat, sampling)
        trainers[player] = Trainer(policy, chat, Grpo(optimizer, chat.pad_id, config))
    return trainers


def playing(
    trainers: Mapping[Player, Trainer],
    game: Pair,
    seeds: Sequence[Seed],
    learns: Player = Player.ATTACKER,
) -> Iterator[Round]:
    """Rounds of the same seeds in which one player learns from groups of GENERATIONS."""
    trainers[learns].begin()
    openings = [game.open(seed) for seed in seeds]
    return coevolve(
        Plan(
            game=game,
            judge=Nobody(),
            openings=lambda number, turn, past: openings,
            schedule=always(solo(learns, GENERATIONS)),
            cast=trainers,
            learners={learns: trainers[learns]},
            estimator=standardized,
            rounds=10**6,
            rng_seed="0",
            measure=lambda episodes: {},
        )
    )


def counted(round_: Round) -> dict[str, int]:
    """Tokens of a round: the longest attacker prompt, sampled by both players, and trained on."""
    moves = [[e.state.moves[k].completion for e in round_.episodes] for k in (0, 1)]
    attacks = [len(c.token_ids) for c in moves[0]]
    return {
        "prompt": max(len(c.prompt_ids) for c in moves[0]),
        "sampled": sum(attacks) + sum(len(c.token_ids) for c in moves[1]),
        "trained": sum(attacks),
    }
