"""Estimates are counts: of real tensors, real optimizers, real caches and real operations."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from tests.command import sparring_command
from tests.tiny import FAMILIES, LLAMA3, QWEN2, save_model
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sparring.estimate.load import (
    CARDS,
    Shares,
    activation_bytes,
    cache_bytes,
    card,
    forward_flops,
    load_of,
    memory,
    optimizer_bytes,
    rounds_of,
    seconds,
    update_flops,
    update_tokens,
)
from sparring.estimate.shape import KNOWN, shape_of
from sparring.players.fast import recompute
from sparring.players.loading import load_model
from sparring.players.optimizer import LearningRate, Optimizer
from sparring.players.weights import Weights, adapters
from sparring.runs import recipes
from sparring.types import Player, UsageError

A, D = Player.ATTACKER, Player.DEFENDER
LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
IDS = torch.arange(200).reshape(1, 200) % 90 + 20
SEEDS = "data.train=[{path: seeds.csv}]"
PUBLISHED = {"1.5B": 1_543_714_304, "7B": 7_615_616_512, "14B": 14_770_033_664}
PUBLISHED |= {"70B": 70_553_706_496}
"""Parameters, as the hub counts the safetensors of the models named in KNOWN."""


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def path(request, tmp_path_factory):
    return str(save_model(tmp_path_factory.mktemp("estimate") / "model", request.param))


def loaded(path, lora, dtype="bfloat16"):
    """What a run would load: the weights of one player."""
    base = load_model(path, dtype)
    return adapters(base, dict.fromkeys(Player, LORA), 0)[D] if lora else Weights(base)


@pytest.mark.parametrize("name", ["1.5B", "7B"])
def test_the_known_shapes_have_the_published_numbers_of_parameters(name):
    assert shape_of(name).parameters == PUBLISHED[name]


def test_the_large_shapes_have_the_published_dimensions():
    told = {name: KNOWN[name][0] for name in ("14B", "70B")}
    for name, config in told.items():
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        share = config["num_key_value_heads"] / config["num_attention_heads"]
        biases = hidden * (1 + 2 * share) if name == "14B" else 0
        layer = 2 * hidden**2 * (1 + share) + 3 * hidden * inner + 2 * hidden + biases
        whole = config["num_hidden_layers"] * layer + hidden + 2 * config["vocab_size"] * hidden
        assert whole == PUBLISHED[name]


def test_an_adapter_of_rank_32_on_7b_is_what_peft_prints():
    lora = {**LORA, "r": 32, "lora_alpha": 64}
    found = shape_of("7B", lora=lora)
    assert found.trained == 80_740_352
    assert found.trained_bytes == 4 * found.trained


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [True, False])
def test_weights_and_what_is_trained_are_the_bytes_of_the_loaded_tensors(path, lora, dtype):
    real = loaded(path, lora, dtype)
    found = shape_of(path, dtype, LORA if lora else None)
    own = {id(p) for p in real.parameters.values()}
    assert found.trained_bytes == sum(p.nbytes for p in real.parameters.values())
    base = [p for n, p in real.model.named_parameters() if not lora or "lora_" not in n]
    assert found.weights == sum(p.nbytes for p in base)
    assert found.parameters == sum(p.numel() for p in base)
    assert found.trained == sum(p.numel() for p in real.model.parameters() if id(p) in own)


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_optimizer_bytes_are_those_of_a_real_step(path, lora, dtype):
    real = loaded(path, lora, dtype)
    optimizer = Optimizer(real, LearningRate(1e-3))
    real.model(IDS).logits.float().sum().backward()
    optimizer.step()
    held = {n: t for n, t in optimizer.tensors().items() if not n.endswith("/step")}
    found = shape_of(path, dtype, LORA if lora else None)
    assert optimizer_bytes(found.trained, found.trained_bytes) == sum(
        t.nbytes for t in held.values()
    )


def test_cache_bytes_are_those_of_a_real_cache(tmp_path):
    for family in (QWEN2, LLAMA3):
        path = str(save_model(tmp_path / family.name, family))
        with torch.no_grad():
            layers = load_model(path, "bfloat16")(IDS, use_cache=True).past_key_values.layers
        real = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
        assert cache_bytes(shape_of(path, "bfloat16"), IDS.shape[1]) == real
    seven = shape_of("7B")
    assert seven.cache == 2 * 28 * 4 * 128 * 2  # keys and values, layers, heads, width, bytes


def kept(model, own):
    """Bytes that autograd holds after a real forward, each storage once."""
    found = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(IDS, use_cache=False, logits_to_keep=1)
    return sum(storage.nbytes() for storage in found.values())


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_are_what_autograd_keeps_of_a_real_forward(tmp_path, lora, dtype):
    path = str(save_model(tmp_path / "qwen2", QWEN2))
    real = loaded(path, lora, dtype).model
    own = {p.untyped_storage().data_ptr() for p in real.parameters()}
    found = shape_of(path, dtype, LORA if lora else None)
    assert activation_bytes(found, IDS.shape[1], False) == pytest.approx(kept(real, own), rel=0.1)


@pytest.mark.parametrize("lora", [True, False])
def test_with_checkpointing_the_inputs_of_the_layers_are_kept(tmp_path, lora):
    path = str(save_model(tmp_path / "qwen2", QWEN2))
    real = loaded(path, lora).model
    own = {p.untyped_storage().data_ptr() for p in real.parameters()}
    assert recompute(real) == 2
    found = shape_of(path, "bfloat16", LORA if lora else None)
    whole = activation_bytes(found, IDS.shape[1], True)
    rest = whole - IDS.shape[1] * found.entering  # one layer's, which exist while it runs again
    assert rest == pytest.approx((activation_bytes(found, IDS.shape[1], False) - whole + rest) / 2)
    assert whole - rest <= kept(real, own) < whole


@pytest.mark.parametrize("lora", [True, False])
def test_operations_are_those_that_torch_counts(tmp_path, lora):
    """torch counts attention's products whole, as if nothing were masked."""
    path = str(save_model(tmp_path / "llama", LLAMA3))
    model = loaded(path, lora, "float32").model
    found, tokens = shape_of(path, "float32", LORA if lora else None), IDS.shape[1]
    masked = 2 * found.attention * tokens
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as once:
        out = model(IDS, use_cache=False)
    forward = forward_flops(found, tokens) + masked + (2 * found.trained if lora else 0)
    assert once.get_total_flops() == pytest.approx(tokens * forward, rel=0.01)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as back:
        out.logits.sum().backward()
    total = once.get_total_flops() + back.get_total_flops()
    weights = "adapters" if lora else "shared"
    load = load_of(recipes.configured("magic", [SEEDS, f"weights={weights}"]), 1)
    wanted = tokens * (update_flops(found, tokens, load) + 3 * masked)
    assert total == pytest.approx(
        wanted, rel=0.05
    )  # the first layer wants no gradient by its input


def test_a_rounds_completions_are_those_of_its_turns():
    config = recipes.configured("magic", [SEEDS, "learner.num_generations=4"])
    attack, defend = rounds_of(config)
    seeds = config.learner.seeds_per_round[A]
    assert (attack.name, defend.name) == ("attacker learns", "defender learns")
    assert attack.sampled == {A: 4 * seeds, D: 4 * seeds}
    assert defend.sampled == {A: seeds, D: 4 * seeds}
    assert defend.prompts == {A: seeds, D: seeds}
    (both,) = rounds_of(recipes.configured("ssp", [SEEDS, "learner.num_generations=4"]))
    assert both.name == "attacker and defender learn"
    assert both.sampled == {A: 4 * seeds, D: 16 * seeds}
    (alone,) = rounds_of(recipes.configured("defender_only", [SEEDS]))
    assert alone.learns == {D}


def test_prompts_run_once_a_group_unless_layers_compute_again():
    words = [SEEDS, "learner.num_generations=4", "sampling.max_completion_length=100"]
    for more, repeats in (([], 1), (["learner.optimizer.gradient_checkpointing=true"], 4)):
        config = recipes.configured("magic", [*words, *more])
        work = rounds_of(config)[1]
        seeds = config.learner.seeds_per_round[D]
        tokens = update_tokens(load_of(config, 30), work, D)
        assert tokens == seeds * (4 * 100 + repeats * 30)


def test_a_card_twice_as_fast_takes_half_the_time():
    config = recipes.configured("magic", [SEEDS])
    shape, load = shape_of("1.5B", lora=LORA), load_of(config, 64)
    slow, fast = (
        seconds(shape, load, work, CARDS["h100"], Shares(share, share))
        for work in rounds_of(config)[:1]
        for share in (0.2, 0.4)
    )
    assert slow.total == pytest.approx(2 * fast.total)
    assert min(fast.prefill, fast.decode, fast.update) > 0


def test_copies_are_as_the_weights_are_shared():
    shape = shape_of("1.5B")
    found = {
        kind: memory(shape, load_of(recipes.configured("magic", [SEEDS, f"weights={kind}"]), 1))
        for kind in ("shared", "separate")
    }
    assert found["separate"].weights == 2 * found["shared"].weights
    assert found["separate"].optimizer == 2 * found["shared"].optimizer
    assert found["shared"].adapters == 0
    held = load_of(recipes.configured("magic", [SEEDS, "weights=shared", "learner.beta=0.1"]), 1)
    assert memory(shape, held).reference == shape.weights


def test_seven_billion_with_both_roles_and_a_reference_fit_one_h100():
    told = sparring_command(
        *("estimate", "magic", "--params", "7B", "--gpu", "h100", "learner.beta=0.05"),
        *("learner.optimizer.gradient_checkpointing=true", "--json"),
    )
    found = json.loads(told.out)
    assert found["fits"]
    assert found["bytes"]["weights"] == 2 * PUBLISHED["7B"]
    parts = found["bytes"]
    standing = sum(parts[name] for name in ("weights", "adapters", "optimizer", "reference"))
    moving = parts["gradients"] + parts["activations"] + parts["logits"]
    assert parts["peak"] == standing + max(moving, parts["cache"])
    assert set(found["seconds"]) == {"attacker learns", "defender learns"}


def test_what_does_not_fit_is_told_with_what_to_do():
    told = sparring_command("estimate", "magic", "--params", "7B", "--gpu", "24")
    assert told.code == 0
    assert "too much for 22 GiB" in told.text
    assert "gradient_checkpointing=true" in told.text
    assert "a round" not in told.text, "of a card that is only a number of GiB no time is known"
    assert "sandbox" not in told.text


def test_only_a_frozen_base_is_said_to_be_shared_over_cards():
    big = ("estimate", "magic", "--params", "70B", "--gpu", "h100")
    big += ("learner.optimizer.gradient_checkpointing=true",)
    assert "4 cards if they shared weights (FSDP2)" in sparring_command(*big).text
    told = sparring_command(*big, "weights=separate").text
    assert "weights=adapters needs less" in told
    assert "cards if they shared" not in told


def test_the_sandbox_is_estimated_from_its_own_config():
    told = sparring_command("estimate", "magic")
    assert told.code == 0, told.err
    assert "fits" in told.text


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--params", "9B"), "known: 1.5B, 7B, 14B, 70B"),
        (("--gpu", "voodoo2"), "no card 'voodoo2'; known: b200"),
        ((SEEDS, "defender.model_name_or_path=./nowhere"), "no config.json in ./nowhere"),
    ],
)
def test_what_is_not_known_is_refused(words, why):
    told = sparring_command("estimate", "magic", *words)
    assert told.code == 2
    assert why in told.text


def test_every_card_has_its_source():
    assert all(told.source and told.tflops and told.terabytes for told in CARDS.values())
    assert card("H100") is CARDS["h100"]
    assert card("78GiB").gib == 78
    with pytest.raises(UsageError, match="or GiB"):
        card("-3")


PAGE = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
PRINTED = re.findall(r"```sh\nsparring (estimate [^\n]*)\n```\n```text\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(("command", "printed"), PRINTED, ids=[told for told, _ in PRINTED])
def test_the_page_shows_what_the_command_prints(command, printed):
    told = sparring_command(*shlex.split(command))
    assert told.out.splitlines() == printed.splitlines()


def test_the_page_shows_every_known_shape():
    assert {name for name in KNOWN if any(f"--params {name} " in c for c, _ in PRINTED)} == {*KNOWN}
