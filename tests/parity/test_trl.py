"""Our GRPO is TRL 1.16's: the same loss and the same gradient on the same tokens."""

import random

import pytest
import torch
from tests.close import assert_close_sums
from tests.players import by_hand

from sparring.players.grpo import AGGREGATIONS
from sparring.sandbox.language import Language
from sparring.sandbox.model import tokenizer
from sparring.types import Completion, Player, Sample

pytest.importorskip("trl", reason="PARITY WITH TRL IS NOT CHECKED: install trl==1.16.0")
pytestmark = [
    pytest.mark.numeric,
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing`:FutureWarning"),  # TRL's
]

TEMPERATURE, EPSILON, LONGEST, PAD = 0.8, (0.15, 0.3), 11, 0
ADVANTAGES = (1.7, -0.9, 0.4, 0.0, -2.1, 0.6, 1.1, -0.3)
# Halves of four: their prompt, completion and padded lengths differ from each other.
PROMPTS, REPLIES = (3, 7, 1, 5, 4, 9, 2, 6), (5, 2, 9, 1, 7, 4, 3, 8)


@pytest.fixture(scope="module")
def words():
    return tokenizer(Language(0))


@pytest.fixture(scope="module", params=["first", "second"])
def case(words, request):
    """A model, a reference and eight rows whose old log-probabilities lie off the policy."""
    rng = random.Random(request.param)
    sizes = {"vocab_size": len(words), "hidden_size": 24, "intermediate_size": 40}
    model = by_hand.tiny(5, **sizes, num_attention_heads=4, head_dim=6, initializer_range=0.2)
    rows = [
        tuple(tuple(rng.randrange(6, len(words)) for _ in range(n)) for n in lengths)
        for lengths in zip(PROMPTS, REPLIES, strict=True)
    ]
    old = [[logp + rng.gauss(0, 0.35) for logp in alone(model, *row)] for row in rows]
    return model, by_hand.moved(model, 0.03), rows, old


def alone(model, prompt, reply):
    with torch.no_grad():
        return by_hand.alone(model, prompt, reply, TEMPERATURE).tolist()


def of_trl(case, words, folder, loss, beta, accumulation):
    """The loss and the gradient of one accumulation window of a real `GRPOTrainer`."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    model, reference, rows, old = case
    model.save_pretrained(folder / "base")
    args = GRPOConfig(
        output_dir=str(folder / "out"),
        report_to="none",
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=len(rows) // accumulation,
        gradient_accumulation_steps=accumulation,
        num_generations=4,
        max_completion_length=LONGEST,
        temperature=TEMPERATURE,
        loss_type=loss,
        beta=beta,
        epsilon=EPSILON[0],
        epsilon_high=EPSILON[1],
        # TRL 1.16 multiplies the KL term by the ratio unless told otherwise (DeepSeek-V3.2,
        # arXiv:2512.02556); ours is the plain k3 of the GRPO paper.
        use_bias_correction_kl=False,
    )
    trainer = GRPOTrainer(
        model=str(folder / "base"),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=args,
        train_dataset=Dataset.from_dict({"prompt": ["open the dragon vault"] * 8}),
        processing_class=words,
    )
    # Trainer.train sets this at the start of every accumulation window; a window here is one
    # generation batch (steps_per_generation defaults to it), so it holds all tokens.
    trainer.current_gradient_accumulation_steps = accumulation
    assert trainer.args.steps_per_generation == accumulation
    model = trainer.model.train()
    total, part = 0.0, len(rows) // accumulation
    for start in range(0, len(rows), part):
        batch = trl_batch(rows, old, reference, range(start, start + part))
        step = trainer._compute_loss(model, batch)
        step.backward()
        total += step.item()
    return total, by_hand.gradient_of(model), trainer._metrics["train"]


def trl_batch(rows, old, reference, index):
    """Prompts padded on the left, completions on the right, as TRL pads them."""
    chosen = [rows[i] for i in index]
    before, after = (max(len(row[k]) for row in chosen) for k in (0, 1))

    def left(values):
        return [PAD] * (before - len(values)) + list(values)

    def right(values, fill):
        return list(values) + [fill] * (after - len(values))

    reference_logps = [alone(reference, *row) for row in chosen]
    return {
        "prompt_ids": torch.tensor([left(p) for p, _ in chosen]),
        "prompt_mask": torch.tensor([left([1] * len(p)) for p, _ in chosen]),
        "completion_ids": torch.tensor([right(r, PAD) for _, r in chosen]),
        "completion_mask": torch.tensor([right([1] * len(r), 0) for _, r in chosen]),
        "advantages": torch.tensor([ADVANTAGES[i] for i in index]),
        "old_per_token_logps": torch.tensor([right(old[i], 0.0) for i in index]),
        "ref_per_token_logps": torch.tensor([right(values, 0.0) for values in reference_logps]),
        "num_items_in_batch": torch.tensor(float(sum(REPLIES))),
    }


def ours(case, loss, beta, budget):
    """The metrics and the gradient of one `Grpo.update`."""
    model, reference, rows, old = case
    samples = [
        Sample(Player.DEFENDER, Completion("", reply, tuple(logps), prompt), advantage)
        for (prompt, reply), logps, advantage in zip(rows, old, ADVANTAGES, strict=True)
    ]
    gradient, metrics = by_hand.gradient(
        model,
        samples,
        reference=dict(reference.named_parameters()),
        loss=loss,
        epsilon=EPSILON,
        beta=beta,
        temperature=TEMPERATURE,
        max_completion_length=LONGEST,
        micro_batch_tokens=budget,
    )
    return metrics, gradient


@pytest.mark.parametrize("beta", [0.0, 0.05])
@pytest.mark.parametrize("loss", AGGREGATIONS)
def test_loss_gradient_and_kl_are_trls(case, words, tmp_path, loss, beta):
    theirs, gradient, metrics = of_trl(case, words, tmp_path, loss, beta, accumulation=1)
    # The batch is worth comparing on: both bounds bind, and neither binds everywhere.
    assert 0.05 < metrics["clip_ratio/low_mean"][0] < 0.5
    assert 0.05 < metrics["clip_ratio/high_mean"][0] < 0.5
    for budget in (30, 10_000):
        own, own_gradient = ours(case, loss, beta, budget)
        assert_close_sums(own["defender/loss"], theirs, scale=1.0)
        assert_close_sums(own_gradient, gradient)
        if beta:
            assert metrics["kl"][0] > 0.01
            assert_close_sums(own["defender/kl"], metrics["kl"][0], scale=1.0)


@pytest.mark.parametrize("loss", AGGREGATIONS)
def test_a_window_of_trls_accumulated_batches_is_one_update_of_ours(case, words, tmp_path, loss):
    theirs, gradient, _ = of_trl(case, words, tmp_path, loss, beta=0.05, accumulation=2)
    own, own_gradient = ours(case, loss, beta=0.05, budget=40)
    assert_close_sums(own["defender/loss"], theirs, scale=1.0)
    assert_close_sums(own_gradient, gradient)
