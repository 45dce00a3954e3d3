"""Estimates equal the counts of real tensors, optimizer states, caches and operations."""

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

from sparring.estimate import estimate as needed
from sparring.estimate.estimate import CARDS, card, memory, rounds_of
from sparring.estimate.shape import KNOWN, TABLE, shape_of
from sparring.players.fast import recompute
from sparring.players.loading import load_model
from sparring.players.weights import LearningRate, Optimizer, Weights, adapters
from sparring.runs import recipes
from sparring.types import Player, UsageError

A, D = Player.ATTACKER, Player.DEFENDER
LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
IDS = torch.arange(200).reshape(1, 200) % 90 + 20
TOKENS = IDS.shape[1]
SEEDS = "data.train=[{path: seeds.csv}]"
PUBLISHED = {"1.5B": 1_543_714_304, "7B": 7_615_616_512, "14B": 14_770_033_664}
PUBLISHED |= {"70B": 70_553_706_496}
"""Parameters, as the hub counts the safetensors of the models named in KNOWN."""

with_and_without_lora = pytest.mark.parametrize("lora", [True, False])
in_both_dtypes = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])


def configured(*words):
    return recipes.configured("magic", [SEEDS, *words])


def needs(shape, *words):
    """The memory of a run with that shape whose batches hold as many tokens as IDS."""
    words = ("weights=shared", f"sampling.batch_tokens={TOKENS}", *words)
    return memory(shape, configured(*words), TOKENS)


def loaded(path, lora, dtype="bfloat16"):
    """What a run would load: the weights of one player."""
    base = load_model(path, dtype)
    return adapters(base, dict.fromkeys(Player, LORA), 0)[D] if lora else Weights(base)


def saved_bytes(model):
    """Bytes that autograd saves in a real forward pass, counting each storage once."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages = {}

    def save(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        model(IDS, use_cache=False, logits_to_keep=1)
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_known_shapes_have_the_published_numbers_of_parameters(name):
    if name in ("1.5B", "7B"):
        assert shape_of(name).parameters == PUBLISHED[name]
    config = KNOWN[name]
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    share = config["num_key_value_heads"] / config["num_attention_heads"]
    biases = 0 if name == "70B" else hidden * (1 + 2 * share)
    layer = 2 * hidden**2 * (1 + share) + 3 * hidden * inner + 2 * hidden + biases
    embeddings = (1 if config.get("tie_word_embeddings") else 2) * config["vocab_size"] * hidden
    parameters = config["num_hidden_layers"] * layer + hidden + embeddings
    assert parameters == PUBLISHED[name]


def test_an_adapter_of_rank_32_on_7b_is_what_peft_prints():
    shape = shape_of("7B", lora={**LORA, "r": 32, "lora_alpha": 64})
    assert shape.trained == 80_740_352
    assert shape.trained_bytes == 4 * shape.trained


@in_both_dtypes
@with_and_without_lora
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_weights_and_moments_are_the_bytes_of_real_tensors(tmp_path, family, lora, dtype):
    path = str(save_model(tmp_path / "model", family))
    real = loaded(path, lora, dtype)
    optimizer = Optimizer(real, LearningRate(1e-3))
    real.model(IDS).logits.float().sum().backward()
    optimizer.step()
    moments = [t for n, t in optimizer.tensors().items() if not n.endswith("/step")]
    shape = shape_of(path, dtype, LORA if lora else None)
    base = [p for n, p in real.model.named_parameters() if not lora or "lora_" not in n]
    assert shape.weights == sum(p.nbytes for p in base)
    assert shape.parameters == sum(p.numel() for p in base)
    assert shape.trained_bytes == sum(p.nbytes for p in real.parameters.values())
    assert shape.trained == sum(p.numel() for p in real.parameters.values())
    assert needs(shape).optimizer == sum(t.nbytes for t in moments)


@pytest.mark.parametrize("family", [QWEN2, LLAMA3], ids=lambda family: family.name)
def test_cache_bytes_are_those_of_a_real_cache(tmp_path, family):
    path = str(save_model(tmp_path / "model", family))
    with torch.no_grad():
        layers = load_model(path, "bfloat16")(IDS, use_cache=True).past_key_values.layers
    real = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
    assert needs(shape_of(path, "bfloat16")).cache == real


@with_and_without_lora
@in_both_dtypes
def test_activations_are_what_autograd_saves_of_a_real_forward(tmp_path, lora, dtype):
    path = str(save_model(tmp_path / "qwen2", QWEN2))
    shape, real = shape_of(path, dtype, LORA if lora else None), loaded(path, lora, dtype).model
    assert needs(shape).activations == pytest.approx(saved_bytes(real), rel=0.1)
    if dtype == "bfloat16":  # with checkpointing only the inputs of the layers are saved
        assert recompute(real) == 2
        checkpointed = needs(shape, "learner.optimizer.gradient_checkpointing=true").activations
        inputs = TOKENS * shape.layer_inputs
        one_layer = (needs(shape).activations - inputs) / 2  # exists while the layer runs again
        assert checkpointed == pytest.approx(inputs + one_layer)
        assert inputs <= saved_bytes(real) < checkpointed


@with_and_without_lora
def test_operations_are_those_that_torch_counts(tmp_path, lora):
    """torch counts attention's products whole, as if nothing were masked."""
    path = str(save_model(tmp_path / "llama", LLAMA3))
    model = loaded(path, lora, "float32").model
    shape = shape_of(path, "float32", LORA if lora else None)
    masked = 2 * shape.attention * TOKENS
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as forward:
        output = model(IDS, use_cache=False)
    expected = needed.forward_flops(shape, TOKENS) + masked + (2 * shape.trained if lora else 0)
    assert forward.get_total_flops() == pytest.approx(TOKENS * expected, rel=0.01)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as backward:
        output.logits.sum().backward()
    total = forward.get_total_flops() + backward.get_total_flops()
    expected = needed.update_flops(shape, TOKENS, lora, 0) + 3 * masked
    # The first layer needs no gradient by its input.
    assert total == pytest.approx(TOKENS * expected, rel=0.05)


def test_a_rounds_completions_are_those_of_its_turns():
    config = configured("learner.num_generations=4")
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


@pytest.mark.parametrize(("checkpointing", "repeats"), [("false", 1), ("true", 4)])
def test_prompts_run_once_a_group_unless_layers_compute_again(checkpointing, repeats):
    words = ("learner.num_generations=4", "sampling.max_completion_length=100")
    config = configured(*words, f"learner.optimizer.gradient_checkpointing={checkpointing}")
    tokens = needed.update_tokens(config, 30, rounds_of(config)[1], D)
    assert tokens == config.learner.seeds_per_round[D] * (4 * 100 + repeats * 30)


def test_there_are_as_many_copies_as_the_weights_are_shared():
    shape = shape_of("1.5B")
    shared, separate = (
        memory(shape, configured(f"weights={kind}"), 1) for kind in ("shared", "separate")
    )
    assert separate.weights == 2 * shared.weights
    assert separate.optimizer == 2 * shared.optimizer
    assert shared.adapters == 0
    assert needs(shape, "learner.beta=0.1").reference == shape.weights


def test_seven_billion_with_both_roles_and_a_reference_fit_one_h100():
    words = ("learner.beta=0.05", "learner.optimizer.gradient_checkpointing=true", "--json")
    command = sparring_command("estimate", "magic", "--params", "7B", "--gpu", "h100", *words)
    result = json.loads(command.out)
    size = result["bytes"]
    assert result["fits"]
    assert size["weights"] == 2 * PUBLISHED["7B"]
    standing = sum(size[name] for name in ("weights", "adapters", "optimizer", "reference"))
    moving = size["gradients"] + size["activations"] + size["logits"]
    assert size["peak"] == standing + max(moving, size["cache"])
    assert set(result["seconds"]) == {"attacker learns", "defender learns"}


BIG = ("--params=70B", "--gpu=h100", "learner.optimizer.gradient_checkpointing=true")


@pytest.mark.parametrize(
    ("words", "code", "shown", "hidden"),
    [
        ((), 0, ["fits"], []),
        # A card that is only a number of GiB has no rates.
        (
            *(("--params=7B", "--gpu=24"), 0),
            *(["too much for 22 GiB", "gradient_checkpointing=true"], ["a round", "sandbox"]),
        ),
        (BIG, 0, ["4 cards if they shared weights (FSDP2)"], []),
        ((*BIG, "weights=separate"), 0, ["weights=adapters needs less"], ["cards if they shared"]),
        (("--params", "9B"), 2, ["known: 1.5B, 7B, 14B, 70B"], []),
        (("--gpu", "voodoo2"), 2, ["no card 'voodoo2'; known: b200"], []),
        ((SEEDS, "defender.model_name_or_path=./nowhere"), 2, ["no model at ./nowhere"], []),
    ],
)
def test_a_person_reads_whether_it_fits_and_what_to_do(words, code, shown, hidden):
    command = sparring_command("estimate", "magic", *words)
    assert command.code == code, command.err
    assert all(text in command.text for text in shown)
    assert not any(text in command.text for text in hidden)


def test_every_card_and_shape_has_its_source():
    assert all(row["source"] for rows in TABLE.values() for row in rows.values())
    assert all(known.tflops and known.terabytes for known in CARDS.values())
    assert card("H100") is CARDS["h100"]
    assert card("78GiB").gib == card("78 GB").gib == 78
    assert card("4090") is card("NVIDIA GeForce RTX 4090") is CARDS["rtx4090"]
    for name in ("-3", "3090", "6000", "1e3"):
        with pytest.raises(UsageError, match="or at most 512 GiB"):
            card(name)


PAGE = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
PRINTED = re.findall(r"```sh\nsparring (estimate [^\n]*)\n```\n```text\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(("words", "printed"), PRINTED, ids=[words for words, _ in PRINTED])
def test_the_page_shows_what_the_command_prints(words, printed):
    assert sparring_command(*shlex.split(words)).out.splitlines() == printed.splitlines()


def test_the_page_shows_every_known_shape():
    assert {name for name in KNOWN if any(f"--params {name} " in c for c, _ in PRINTED)} == {*KNOWN}
