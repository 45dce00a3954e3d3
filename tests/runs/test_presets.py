"""What `sparring init --for` writes fits its card, resolves, and plays on models of that family."""

import json
import re

import pytest
import yaml
from tests.command import sparring_command
from tests.test_real_judges import MENU, answer
from tests.tiny import LLAMA3, QWEN2, save_model, write_pool
from tests.transport.server import Script, serving
from transformers import AutoConfig

from sparring.data.readers import read
from sparring.data.rows import OWN
from sparring.estimate.estimate import GIB, PROMPT, card
from sparring.estimate.fitting import largest_micro_batch, shape_for
from sparring.judges.probe import KNOWN
from sparring.runs.recipes import PRESETS, RECIPES, preset, resolve

LLAMA = {"model_type": "llama", "num_key_value_heads": 8, "vocab_size": 128256}
QWEN = {"model_type": "qwen2", "vocab_size": 151936, "tie_word_embeddings": True}
SHAPES = {
    "smollm2-135m": LLAMA
    | {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9}
    | {"num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152}
    | {"tie_word_embeddings": True},
    "qwen2.5-0.5b": QWEN
    | {"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14}
    | {"num_key_value_heads": 2, "intermediate_size": 4864},
    "qwen2.5-7b": QWEN
    | {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28}
    | {"num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064}
    | {"tie_word_embeddings": False},
    "llama-3.1-8b": LLAMA
    | {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
    | {"intermediate_size": 14336, "tie_word_embeddings": False},
}
PARAMETERS = {"smollm2-135m": 134_515_008, "qwen2.5-0.5b": 494_032_768}
PARAMETERS |= {"qwen2.5-7b": 7_615_616_512, "llama-3.1-8b": 8_030_261_248}
"""As the hub counts the safetensors of the published models."""
WITHOUT_GPU = 8
"""GiB of memory of a small machine."""
CARDS = [(model, gib) for model, row in PRESETS["models"].items() for gib in row["cards"]]


def settings(recipe, model, gib):
    return yaml.safe_load(preset(recipe, model, gib))


def test_the_models_and_cards_are_those_that_are_documented():
    small, *others = SHAPES
    assert CARDS[:3] == [(small, 0), (small, 24), (small, 80)]
    assert CARDS[3:] == [(model, gib) for model in others for gib in (24, 80)]


@pytest.mark.parametrize(("model", "gib"), CARDS)
def test_every_recipe_fits_its_card(model, gib):
    shapes = {}
    for recipe in RECIPES:
        config = resolve(settings(recipe, model, gib))
        key = (config.weights, config.defender.dtype)
        if key not in shapes:
            shapes[key] = shape_for(config, AutoConfig.for_model(**SHAPES[model]))
        assert shapes[key].parameters == PARAMETERS[model]
        room = card(f"{gib or WITHOUT_GPU}").usable * GIB
        assert largest_micro_batch(config, shapes[key], PROMPT, room), recipe


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_preset_names_our_seeds_a_pool_and_judges_with_their_commands(recipe):
    text = preset(recipe, "qwen2.5-0.5b", 24)
    config = resolve(yaml.safe_load(text))
    assert {str(s.path) for s in (*config.data.train, *config.data.exam)} <= {*OWN}
    assert f"sparring pool make --seeds own:train --out {config.attacker.warm_start}" in text
    for judge in config.judge:
        port = re.search(r":(\d+)/", judge.base_url)[1]
        assert f"vllm serve {judge.model} --port {port}" in text
    assert not re.search(r"[0-9a-f]{40}", text), "no commit is invented"


SENT = {e.attack or e.request: e.harmful for e in KNOWN}
SENT |= {seed.text: seed.harmful for seed in read("own:train").seeds}
SCORES = {e.reply: 4 if e.known["score"] else 2 for e in KNOWN if "score" in e.known}


def judged(prompt):
    """An answer of the judges of any preset: a guard of replies or of attacks, or a rubric."""
    if prompt in SENT:
        return f"Safety: {'Unsafe' if SENT[prompt] else 'Safe'}\nCategories: None"
    menus = dict(MENU.findall(prompt))
    if "score" not in menus:
        return answer(prompt)
    others = json.loads(answer(re.sub(r'^- "score".*$', "", prompt, flags=re.MULTILINE)))
    reply = next((text for text in SCORES if text in prompt), "")
    return json.dumps({**others, "score": SCORES.get(reply, len(prompt) % 5 + 1)})


REHEARSED = [
    ("magic", "smollm2-135m", 0, LLAMA3),
    ("ssp", "qwen2.5-0.5b", 24, QWEN2),
    ("magic", "qwen2.5-7b", 24, QWEN2),
    ("self_redteam", "llama-3.1-8b", 80, LLAMA3),
    ("self_redteam", "qwen2.5-0.5b", 24, QWEN2),
    ("no_game", "qwen2.5-7b", 80, QWEN2),
    ("defender_only", "llama-3.1-8b", 24, LLAMA3),
    ("base_attacker", "smollm2-135m", 24, LLAMA3),
    ("defender_cot", "smollm2-135m", 0, LLAMA3),
    ("magic_hardened", "smollm2-135m", 24, LLAMA3),
    ("ssp_hardened", "qwen2.5-0.5b", 24, QWEN2),
    ("ssp_hardened", "smollm2-135m", 0, LLAMA3),
]


@pytest.mark.parametrize(("recipe", "model", "gib", "family"), REHEARSED)
def test_a_preset_is_rehearsed_on_a_tiny_model_of_its_family(
    recipe, model, gib, family, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_pool(tmp_path / "pool.jsonl")
    save_model(tmp_path / "model", family)
    with serving(Script(answer=judged)) as (url, received):
        text = re.sub(r"http://127.0.0.1:\d+/v1", url, preset(recipe, model, gib))
        text = text.replace(PRESETS["models"][model]["name"], "./model")
        (tmp_path / "my.yaml").write_text(text)
        words = ["sampling.max_completion_length=8", "sampling.batch_tokens=2048"]
        ended = sparring_command("train", "my.yaml", *words, "--dry-run")
    assert ended.code == 0, ended.text
    assert "own:train: read as seeds" in ended.err
    assert "rehearsal: " in ended.out
    assert "games scored" in ended.out
    assert {body["model"] for body in received.bodies} == {
        judge["model"] for judge in settings(recipe, model, gib)["judge"]
    }


def test_the_command_writes_it_by_card_and_names_what_there_is(tmp_path):
    ended = sparring_command("init", "ssp", "--for", "llama-3.1-8b", "--gpu", "l40s")
    assert ended.out == preset("ssp", "llama-3.1-8b", 24), "the largest that fits 48 GiB"
    assert sparring_command("init", "--for", "smollm2-135m").out == preset(
        "magic", "smollm2-135m", 0
    )
    refused = {
        ("magic", "--for", "qwen2.5-7"): "did you mean qwen2.5-7b?",
        ("magic", "--for", "qwen2.5-7b"): "has presets for [24, 80]",
        ("magic", "--for", "smollm2-135m", "--gpu", "8"): "has presets for [0, 24, 80]",
        ("magik", "--for", "qwen2.5-7b", "--gpu", "24"): "no recipe 'magik'",
    }
    for words, message in refused.items():
        ended = sparring_command("init", *words)
        assert (ended.code, message in ended.text) == (2, True), ended.text


def test_what_is_written_for_a_large_card_does_not_fit_a_small_one():
    for model in ("qwen2.5-7b", "llama-3.1-8b"):
        config = resolve(settings("magic", model, 80))
        shape = shape_for(config, AutoConfig.for_model(**SHAPES[model]))
        assert not largest_micro_batch(config, shape, PROMPT, card("24").usable * GIB)
