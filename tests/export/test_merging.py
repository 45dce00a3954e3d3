"""A merged model has the outputs of base and adapter, for every family and kind of adapter."""

import json
import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tests.tiny import FAMILIES, save_model
from transformers import AutoModelForCausalLM

from sparring.export.export import LIMITS, PROMPTS, compare, logits, merged
from sparring.players.chat import Chat
from sparring.players.loading import load_model, load_tokenizer
from sparring.players.weights import adapters
from sparring.types import GateError, Player

LORAS = {
    "plain": {"target_modules": "all-linear"},
    "dropout and scale": {"target_modules": ["q_proj", "down_proj"], "lora_dropout": 0.3},
    "tied embeddings": {
        "target_modules": "all-linear",
        "modules_to_save": ["embed_tokens", "lm_head"],
        "ensure_weight_tying": True,
    },
    "embeddings set apart": {
        "target_modules": "all-linear",
        "modules_to_save": ["embed_tokens", "lm_head"],
    },
    "one embedding alone": {"target_modules": ["v_proj"], "modules_to_save": ["embed_tokens"]},
    "a head of its own": {"target_modules": ["q_proj", "lm_head"]},
}
STILL_TIED = {"plain", "dropout and scale", "tied embeddings"}


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def base(request, tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), request.param)


def logits_of(model, base):
    return logits(model, Chat(load_tokenizer(str(base))))


@torch.no_grad()
def saved(base, lora, folder, dtype="auto"):
    """A PEFT folder whose adapter weights are all random, as after training, and its logits."""
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, **LORAS[lora])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(13)  # before PEFT draws the half of a LoRA that is not zero
        model = get_peft_model(load_model(str(base), dtype), config)
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn_like(p))
    model.eval().save_pretrained(folder)
    return logits_of(PeftModel.from_pretrained(load_model(str(base), dtype), folder).eval(), base)


def merge(base, folder, dtype="auto"):
    return merged(load_model(str(base), dtype), folder, lambda model: logits_of(model, base))


@pytest.mark.parametrize("lora", LORAS)
def test_what_transformers_loads_says_what_base_and_adapter_say(base, lora, tmp_path):
    expected_NV = saved(base, lora, tmp_path / "adapter")
    model, beside_NV, within_NV = merge(base, tmp_path / "adapter")
    model.save_pretrained(tmp_path / "whole")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "whole").eval()
    loaded_NV, base_NV = logits_of(loaded, base), logits_of(load_model(str(base)), base)
    scale = expected_NV.abs().max().item()
    for actual_NV in (loaded_NV, beside_NV, within_NV):
        assert (actual_NV - expected_NV).abs().max().item() < 1e-4 * scale
    assert (base_NV - expected_NV).abs().max().item() > 0.01 * scale
    assert loaded.config.tie_word_embeddings == (lora in STILL_TIED)
    assert not any("lora" in name for name in load_file(tmp_path / "whole" / "model.safetensors"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_merged_model_has_its_bases_dtype_and_agrees_within_the_limit(base, dtype, tmp_path):
    expected_NV = saved(base, "plain", tmp_path / "adapter", dtype)
    model, beside_NV, within_NV = merge(base, tmp_path / "adapter", dtype)
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
    compare("merged", "float32", beside_NV, within_NV).check()
    loaded_NV, base_NV = logits_of(model, base), logits_of(load_model(str(base), dtype), base)
    compare("as loaded", dtype, expected_NV, loaded_NV, base_NV).check()
    with pytest.raises(GateError, match="does not say what was trained"):
        compare("as loaded", "float32", expected_NV, loaded_NV).check()


def test_the_largest_difference_is_stated_beside_the_largest_logit():
    expected_NV = torch.tensor([[1.0, -8.0, 3.0], [0.5, 0.25, 2.0]])
    actual_NV = torch.tensor([[1.0, -8.0, 3.0], [0.5, 2.5, 2.0]])
    agreement = compare("as loaded", "bfloat16", expected_NV, actual_NV, expected_NV + 1.5)
    assert (agreement.largest, agreement.highest) == (2.25, 8.0)
    assert (agreement.same_argmax, agreement.positions) == (0.5, 2)
    assert agreement.mean == pytest.approx(2.25 / 6)
    assert agreement.moved == pytest.approx(1.5)
    assert agreement.limit == LIMITS["bfloat16"] * 8.0
    with pytest.raises(GateError, match=r"largest difference 2\.2 \(limit 2, largest logit 8\)"):
        agreement.check()


def test_an_adapter_that_is_lost_in_the_rounding_is_refused_though_the_limit_is_kept():
    expected_NV = torch.tensor([[4.0, 5.0, 6.0]])
    lost = compare("as loaded", "bfloat16", expected_NV, expected_NV + 0.04, expected_NV + 0.03)
    assert lost.largest < lost.limit
    with pytest.raises(GateError, match="loses what the adapter learned"):
        lost.check()
    compare("as loaded", "bfloat16", expected_NV, expected_NV + 0.02, expected_NV + 0.03).check()
    compare("as loaded", "float32", expected_NV, expected_NV, expected_NV).check()


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_model_that_computes_no_numbers_agrees_with_nothing(number):
    expected_NV = torch.tensor([[4.0, 5.0]])
    with pytest.raises(GateError):
        compare("as loaded", "bfloat16", expected_NV, torch.tensor([[4.0, number]])).check()
    with pytest.raises(GateError):
        compare("as loaded", "bfloat16", torch.tensor([[4.0, number]]), expected_NV).check()


def test_the_prompts_hold_several_scripts_and_the_limits_on_the_page_are_the_limits():
    assert {m.role for prompt in PROMPTS for m in prompt} == {"system", "user", "assistant"}
    assert any(ord(letter) > 0x3000 for prompt in PROMPTS for m in prompt for letter in m.content)
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    rows = dict(re.findall(r"^\| (.*?) \| ([\d.]+) % \|", page, re.MULTILINE))
    shares = {name.split()[-1]: float(share) / 100 for name, share in rows.items()}
    assert (shares["float16"], shares["bfloat16"]) == (LIMITS["float16"], LIMITS["bfloat16"])
    assert shares["rounded"] == shares["dtype"] == pytest.approx(LIMITS["float32"])


VLLM_TAKES = {"bias": "none", "use_dora": False, "modules_to_save": None, "use_rslora": False}


def test_adapters_for_real_models_are_what_vllm_takes(base, tmp_path):
    """vLLM's lora/peft_helper.py refuses bias, DoRA and modules_to_save, and reads these names."""
    lora = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": "all-linear"}
    own = adapters(load_model(str(base)), dict.fromkeys(Player, lora), torch_seed=5)
    own[Player.DEFENDER].save(tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert {key: settings[key] for key in VLLM_TAKES} == VLLM_TAKES
    assert (settings["peft_type"], settings["r"], settings["lora_alpha"]) == ("LORA", 8, 16)
    linear = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert {name.rsplit(".", 1)[-1] for name in settings["target_modules"]} == linear
    shapes = {
        f"base_model.model.model.layers.{layer}.{place}.{name}.lora_{side}.weight"
        for layer in (0, 1)
        for name in linear
        for place in ["self_attn" if name[0] in "qkvo" else "mlp"]
        for side in "AB"
    }
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert set(tensors) == shapes
    assert all(8 in tensor.shape for tensor in tensors.values())


def test_a_base_that_names_code_of_its_own_names_none_once_merged(base, tmp_path):
    saved(base, "plain", tmp_path / "adapter")
    model = load_model(str(base))
    model.config.auto_map = {"AutoModelForCausalLM": "singing.Model"}
    whole, _, _ = merged(model, tmp_path / "adapter", lambda m: logits_of(m, base))
    whole.save_pretrained(tmp_path / "whole")
    assert "singing" not in (tmp_path / "whole" / "config.json").read_text()
