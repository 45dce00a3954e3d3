"""One copy of a prompt's cache serves its siblings as a copy for each would."""

import gc
import weakref

import pytest
import torch
from tests.players.test_architectures import FAMILIES as NETWORKS
from tests.players.test_architectures import tiny

from sparring.players.fast import decoding
from sparring.players.fast.decoding import FAMILIES, begin, fits

pytestmark = pytest.mark.numeric

PROMPTS = [tuple(range(70, 80)), (80, 81, 82), tuple(range(90, 107))]
OWNER = (2, 0, 0, 1, 2, 0, 2, 0)
LEAVE = {3: (0, 1, 2, 4, 6), 5: (1, 3, 4), 36: (2,)}
"""Step → which of the rows there go on."""


SHARING = pytest.mark.parametrize(
    ("short", "owner"), [(0, OWNER), (32, OWNER), (0, (2, 0, 1))], ids=["shared", "short", "alone"]
)
"""Siblings meet one copy of their prompt's keys; a short prompt's, or a lone row's, are its own."""


def walk(monkeypatch, model, forked, owner=OWNER):
    """Logits after every one of 40 steps, as rows leave."""
    monkeypatch.setattr(decoding, "fits", lambda model: forked)
    rng = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        steps = begin(model, PROMPTS, owner, 0)
        assert isinstance(steps.cache, decoding.Forks) == forked
        told = [steps.logits_BV]
        for t in range(40):
            rows = range(len(told[-1]))
            going = torch.tensor([i for i in LEAVE.get(t, rows) if i in rows] or [0])
            steps.advance(torch.randint(70, 100, (len(going),), generator=rng), going)
            told.append(steps.logits_BV)
    return told


@SHARING
@pytest.mark.parametrize("family", sorted(set(NETWORKS) - {"GPT2"}))
def test_logits_are_those_of_a_copied_cache_while_rows_leave_and_room_is_made(
    family, short, owner, monkeypatch
):
    model = tiny(family)
    assert fits(model)
    monkeypatch.setattr("sparring.players.fast.decoding._SHORT", short)
    copied, forked = (walk(monkeypatch, model, kind, owner) for kind in (False, True))
    tolerance = 1e-4 if family == "Gemma2" else 1e-8
    for one, other in zip(copied, forked, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=tolerance * one.abs().max())


def test_the_caches_go_with_the_batch_without_waiting_for_the_collector_of_cycles(monkeypatch):
    monkeypatch.setattr(decoding, "fits", lambda model: True)
    with torch.inference_mode():
        steps = begin(tiny("Llama"), PROMPTS, OWNER, 0)
    gone = weakref.ref(steps.cache.layers[0])
    gc.disable()
    try:
        del steps
        assert gone() is None
    finally:
        gc.enable()


def test_a_family_that_is_not_known_copies():
    assert not fits(tiny("GPT2"))
    assert "gpt2" not in FAMILIES


def test_the_models_own_attention_is_back_after_every_step(monkeypatch):
    model = tiny("Qwen2")
    before = model.config._attn_implementation
    walk(monkeypatch, model, True)
    assert model.config._attn_implementation == before


def test_a_prompts_keys_exist_once_however_many_continue_it(monkeypatch):
    monkeypatch.setattr(decoding, "fits", lambda model: True)
    monkeypatch.setattr("sparring.players.fast.decoding._SHORT", 0)
    with torch.inference_mode():
        steps = begin(tiny("Llama"), PROMPTS, OWNER, 0)
    assert {len(layer.prompt[0]) for layer in steps.cache.layers} == {3}


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])
def test_what_all_prompts_begin_with_runs_once(family, monkeypatch):
    brief = tuple(range(110, 150))
    monkeypatch.setattr(f"{__name__}.PROMPTS", [(*brief, *prompt) for prompt in PROMPTS])
    model, seen = tiny(family), []
    copied = walk(monkeypatch, model, False)
    monkeypatch.setattr("sparring.players.fast.decoding.WORTH", 50)
    model.register_forward_pre_hook(
        lambda _, args, told: seen.append(tuple(told["input_ids"].shape)), with_kwargs=True
    )
    forked = walk(monkeypatch, model, True)
    assert seen[:3] == [(1, 40), (3, 17), (8, 1)]
    for one, other in zip(copied, forked, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-8 * one.abs().max())
