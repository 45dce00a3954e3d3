"""Adapters on one base: each player has its own, and PEFT reads what was saved."""

import pytest
import torch
from peft import PeftModel
from tests.close import assert_close_sums
from tests.players.lively import (
    ROW,
    changed,
    everything,
    lively,
    logits,
    policy,
    requests,
    same_bits,
    train,
)

from sparring.players.local import LocalPolicy
from sparring.players.logprobs import logprobs, pad
from sparring.players.weights import LearningRate, Optimizer, adapters
from sparring.types import Player

ATTACKER, DEFENDER = Player.ATTACKER, Player.DEFENDER
LORAS = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"},
    "sandbox": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": "all-linear",
        "modules_to_save": ["embed_tokens", "lm_head"],
        "ensure_weight_tying": True,
    },
}
every_lora = pytest.mark.parametrize("lora", LORAS.values(), ids=LORAS)


def both(lora):
    return dict.fromkeys(Player, lora)


def trained_pair(lora, torch_seed=5):
    """Two adapters that both differ from their base and from each other."""
    own = adapters(lively(), both(lora), torch_seed)
    train(own[ATTACKER], steps=3)
    train(own[DEFENDER], steps=1, rate=3e-2)
    return own


@every_lora
def test_new_adapters_are_drawn_from_their_seed_alone(lora):
    found = []
    for process, seed in ((1, 5), (2, 5), (1, 6)):
        base = lively()
        torch.manual_seed(process)
        before = torch.random.get_rng_state()
        own = adapters(base, both(lora), torch_seed=seed)
        assert torch.equal(torch.random.get_rng_state(), before)
        found.append(own[ATTACKER].snapshot())
    assert same_bits(found[0], found[1])
    assert not same_bits(found[0], found[2])


def test_dropout_is_off_unless_the_learner_turns_it_on():
    lora = {**LORAS["plain"], "lora_dropout": 0.5}
    own = trained_pair(lora)[DEFENDER]
    assert torch.equal(logits(own.model), logits(own.model))
    speaks = policy(own)
    assert speaks.sample(requests()) == speaks.sample(requests())


@every_lora
@pytest.mark.parametrize("learns", [ATTACKER, DEFENDER])
def test_training_one_adapter_leaves_the_other_and_the_base_as_they_are(lora, learns):
    own = trained_pair(lora)
    model = own[learns].model
    before = everything(model)
    train(own[learns])
    moved = changed(before, everything(model))
    assert moved
    assert all(f".{learns.value}." in name for name in moved)
    assert {name for name in own[learns].parameters if "lora_" in name} <= moved


@every_lora
def test_sampling_for_one_player_between_another_ones_steps_changes_nothing(lora):
    apart, mixed = (adapters(lively(), both(lora), torch_seed=5) for _ in range(2))
    train(apart[ATTACKER], steps=2)
    optimizer = Optimizer(mixed[ATTACKER], LearningRate(1e-2))
    for _ in range(2):
        policy(mixed[DEFENDER], length=3).sample(requests())
        batch = pad([ROW], [0], 0, "cpu")
        (-logprobs(mixed[ATTACKER].model, batch, 1.0).sum()).backward()
        optimizer.step()
    assert same_bits(apart[ATTACKER].snapshot(), mixed[ATTACKER].snapshot())


def test_tied_embeddings_stay_tied_in_every_adapter():
    own = trained_pair(LORAS["sandbox"])
    model = own[DEFENDER].model.get_base_model()
    tied = {}
    for player in Player:
        embedding = model.model.embed_tokens.modules_to_save[player.value].weight
        assert model.lm_head.modules_to_save[player.value].weight is embedding
        tied[player] = embedding
    original = model.model.embed_tokens.original_module.weight
    assert torch.equal(original, lively().model.embed_tokens.weight)
    assert not torch.equal(tied[ATTACKER], tied[DEFENDER])
    assert not torch.equal(tied[ATTACKER], original)


@every_lora
def test_new_adapters_own_what_bears_their_name_and_play_as_their_base(lora):
    base = lively()
    expected = logits(base)
    own = adapters(base, both(lora), torch_seed=5)
    attacker, defender = (set(own[p].parameters) for p in (ATTACKER, DEFENDER))
    assert len(attacker) == (28 if lora is LORAS["plain"] else 29)
    assert {name.replace("attacker", "defender") for name in attacker} == defender
    assert not attacker & defender
    assert all("lora_" in n or "modules_to_save.attacker" in n for n in attacker)
    assert all(torch.equal(logits(own[player].model), expected) for player in Player)


@every_lora
def test_switching_players_switches_weights_and_back_also_while_one_is_held(lora):
    own = trained_pair(lora)
    attacker, defender = logits(own[ATTACKER].model), logits(own[DEFENDER].model)
    assert (attacker - defender).abs().max().item() > 0.1
    fresh = adapters(lively(), both(lora), torch_seed=8)[ATTACKER].snapshot()
    with own[ATTACKER].holding(fresh):
        assert_close_sums(logits(own[ATTACKER].model), logits(lively()))
        assert torch.equal(logits(own[DEFENDER].model), defender)
    assert torch.equal(logits(own[ATTACKER].model), attacker)
    assert torch.equal(logits(own[DEFENDER].model), defender)


@every_lora
@pytest.mark.parametrize("player", list(Player))
def test_a_saved_adapter_is_read_to_the_bit_by_peft_and_by_us_and_trains_on(lora, player, tmp_path):
    own = trained_pair(lora)
    own[player].save(tmp_path / "a")
    expected = logits(own[player].model)
    loaded = PeftModel.from_pretrained(lively(), str(tmp_path / "a")).eval()
    assert torch.equal(logits(loaded), expected)
    assert (expected - logits(lively())).abs().max().item() > 0.1
    fresh = adapters(lively(), both(lora), torch_seed=99)
    before = everything(fresh[player].model)
    fresh[player].read(tmp_path / "a")
    assert same_bits(fresh[player].snapshot(), own[player].snapshot())
    assert torch.equal(logits(fresh[player].model), expected)
    moved = changed(before, everything(fresh[player].model))
    assert all(f".{player.value}." in name for name in moved)
    train(own[player])
    train(fresh[player])
    assert same_bits(fresh[player].snapshot(), own[player].snapshot())


@pytest.mark.parametrize(
    ("saved", "own"),
    [
        (LORAS["plain"], LORAS["sandbox"]),
        (LORAS["sandbox"], LORAS["plain"]),
        (LORAS["plain"], {**LORAS["plain"], "r": 1}),
    ],
)
def test_an_adapter_of_another_kind_or_rank_is_refused(saved, own, tmp_path):
    trained_pair(saved)[ATTACKER].save(tmp_path / "attacker")
    fresh = adapters(lively(), both(own), torch_seed=99)[ATTACKER]
    before = fresh.snapshot()
    with pytest.raises(ValueError, match="differ"):
        fresh.read(tmp_path / "attacker")
    assert same_bits(fresh.snapshot(), before)


def merged_into(weights):
    """The adapters that lie inside their layers' matrices."""
    layers = [m for m in weights._model.modules() if hasattr(m, "lora_A")]
    return {tuple(m.merged_adapters) for m in layers}


@pytest.mark.numeric
@every_lora
@pytest.mark.parametrize("player", list(Player))
def test_an_adapter_inside_its_base_says_the_same_and_leaves_no_trace(lora, player):
    own = trained_pair(lora)[player]
    before, expected = everything(own.model), logits(own.model)

    def break_while_merged():
        with own.merged() as model:
            assert_close_sums(logits(model), expected)
            assert any("base_layer" in name for name in changed(before, everything(model)))
            raise KeyError

    with pytest.raises(KeyError):
        break_while_merged()
    assert same_bits(everything(own.model), before)
    assert torch.equal(logits(own.model), expected)


@pytest.mark.parametrize(("dtype", "inside"), [("float32", ("defender",)), ("bfloat16", ())])
def test_an_adapter_is_merged_only_while_it_decodes_and_never_in_bfloat16(
    monkeypatch, dtype, inside
):
    base = lively().to(getattr(torch, dtype))
    own = adapters(base, both(LORAS["plain"]), torch_seed=5)[DEFENDER]
    decode, states = LocalPolicy._decode, []

    def watched(*args):
        states.append(merged_into(own))
        return decode(*args)

    monkeypatch.setattr(LocalPolicy, "_decode", watched)
    policy(own).sample(requests())
    assert states == [{inside}]
    assert merged_into(own) == {()}
