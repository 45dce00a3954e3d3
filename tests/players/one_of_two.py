"""One of two processes that hold a base in shares: writes its numbers, without them and with."""

import json
import sys
from pathlib import Path

from tests.players.lively import flat, lively, policy, requests, train, trainer
from torch.distributed.tensor import DTensor

from sparring.players.fast import recompute
from sparring.players.grpo import Grpo, GrpoConfig
from sparring.players.ranks import ALONE, launched, shard, sharding_requested
from sparring.players.trainer import imitate
from sparring.players.trials import head_of
from sparring.players.weights import LearningRate, Optimizer, adapters
from sparring.types import Player, Sample

LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
ROWS = [(tuple(range(70, 75 + 3 * i)), tuple(range(90, 93 + i))) for i in range(5)]
"""Prompts of 5 to 17 tokens, replies of 3 to 7."""


def metrics(weights, samples, ranks):
    """Of steps that change nothing: imitation of five rows and of one, and GRPO with a reference.

    Micro-batches are so small that the processes need different numbers of them; of one row, the
    second needs none.
    """
    still = Optimizer(weights, LearningRate(0.0), ranks=ranks)
    grpo = Grpo(still, 0, GrpoConfig(beta=0.05, micro_batch_tokens=64))
    grpo.reference = {name: 0.9 * p for name, p in weights.snapshot().items()}
    return [
        imitate(still, ROWS, 0, 24, "5"),
        imitate(still, ROWS[:1], 0, 24, "5"),
        grpo.update(samples),
        grpo.update(samples[:2]),
    ]


def drawn(rows):
    return [(completion.token_ids, completion.logprobs) for completion in flat(rows)]


def measured(again, ranks):
    base = lively()
    words = base.get_input_embeddings().weight.data
    words[0] = words[70]  # padding is nothing, and from nothing nobody learns, even by mistake
    own = adapters(base, dict.fromkeys(Player, LORA), 5)
    weights = train(own[Player.ATTACKER])
    if again:
        recompute(weights.model)
    sampler = policy(weights, batch_tokens=120)
    alone = sampler.sample(requests())
    samples = [
        Sample(Player.ATTACKER, completion, advantage)
        for row in alone
        for completion, advantage in zip(row, (0.7, -0.4, 0.3, -0.6), strict=False)
    ]
    trained = [p for each in own.values() for p in each.parameters.values()]
    layers = [p for n, p in weights.model.named_parameters() if ".layers." in n]
    whole = sum(p.nbytes for p in layers if not any(p is q for q in trained))
    metrics_alone = metrics(weights, samples, ALONE)
    shard(own.values(), ranks)
    head_of(weights.model)
    split = trainer(sampler, ranks=ranks)
    shares = [p for p in weights.model.parameters() if isinstance(p, DTensor)]
    return {
        "bytes": [sum(p.to_local().nbytes for p in shares), whole],
        "all requests": [drawn(split.sample(requests())), drawn(alone)],
        "one request": [drawn(split.sample(requests()[:1])), drawn(alone[:1])],
        "metrics": [metrics(weights, samples, ranks), metrics_alone],
        "trained": [isinstance(p, DTensor) for p in trained],
    }


def main(folder):
    ranks = launched(600)
    assert sharding_requested(ranks)
    results = {name: measured(name == "recomputed", ranks) for name in ("plain", "recomputed")}
    (folder / f"{ranks.index}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
