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

from sparring.players import local
from sparring.players.logprobs import logprobs, pad
from sparring.players.optimizer import LearningRate, Optimizer
from sparring.players.weights import adapters
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
def test_adapters_own_what_bears_their_name_and_nothing_else(lora):
    own = adapters(lively(), both(lora), torch_seed=5)
    attacker, defender = (set(own[p].parameters) for p in (ATTACKER, DEFENDER))
    assert len(attacker) == (28 if lora is LORAS["plain"] else 29)
    assert {name.replace("attacker", "defender") for name in attacker} == defender
    assert not attacker & defender
    assert all("lora_" in n or "modules_to_save.attacker" in n for n in attacker)


@every_lora
def test_new_adapters_play_as_their_base_until_they_learn(lora):
    base = lively()
    wanted = logits(base)
    own = adapters(base, both(lora), torch_seed=5)
    for player in Player:
        assert torch.equal(logits(own[player].model), wanted)


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
def test_switching_players_switches_weights_and_back(lora):
    own = trained_pair(lora)
    attacker, defender = logits(own[ATTACKER].model), logits(own[DEFENDER].model)
    assert (attacker - defender).abs().max().item() > 0.1
    assert torch.equal(logits(own[ATTACKER].model), attacker)
    assert torch.equal(logits(own[DEFENDER].model), defender)


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


@every_lora
def test_holding_an_adapter_leaves_the_other_one_switchable(lora):
    own = trained_pair(lora)
    defender = logits(own[DEFENDER].model)
    past = adapters(lively(), both(lora), torch_seed=8)[ATTACKER].snapshot()
    base = logits(lively())
    with own[ATTACKER].holding(past):
        assert_close_sums(logits(own[ATTACKER].model), base)
        assert torch.equal(logits(own[DEFENDER].model), defender)


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
@pytest.mark.parametrize("player", list(Player))
def test_peft_loads_what_was_saved_and_gives_the_same_logits(lora, player, tmp_path):
    own = trained_pair(lora)
    own[player].save(tmp_path / player.value)
    wanted = logits(own[player].model)
    loaded = PeftModel.from_pretrained(lively(), str(tmp_path / player.value)).eval()
    assert torch.equal(logits(loaded), wanted)
    assert (wanted - logits(lively())).abs().max().item() > 0.1


@every_lora
@pytest.mark.parametrize("player", list(Player))
def test_reading_an_adapter_is_to_the_bit_and_leaves_the_other(lora, player, tmp_path):
    own = trained_pair(lora)
    own[player].save(tmp_path / player.value)
    fresh = adapters(lively(), both(lora), torch_seed=99)
    before = everything(fresh[player].model)
    fresh[player].read(tmp_path / player.value)
    assert same_bits(fresh[player].snapshot(), own[player].snapshot())
    assert torch.equal(logits(fresh[player].model), logits(own[player].model))
    moved = changed(before, everything(fresh[player].model))
    assert all(f".{player.value}." in name for name in moved)


@every_lora
def test_an_adapter_trains_on_after_it_was_read(lora, tmp_path):
    own = trained_pair(lora)
    own[ATTACKER].save(tmp_path / "attacker")
    fresh = adapters(lively(), both(lora), torch_seed=99)
    fresh[ATTACKER].read(tmp_path / "attacker")
    train(own[ATTACKER])
    train(fresh[ATTACKER])
    assert same_bits(fresh[ATTACKER].snapshot(), own[ATTACKER].snapshot())


def test_an_adapter_saved_under_another_name_leaves_its_neighbours(tmp_path):
    own = trained_pair(LORAS["plain"])
    own[ATTACKER].save(tmp_path / "attacker")
    kept = (tmp_path / "attacker" / "adapter_model.safetensors").read_bytes()
    train(own[ATTACKER])
    own[ATTACKER].save(tmp_path / "after")
    assert {path.name for path in tmp_path.iterdir()} == {"attacker", "after"}
    assert (tmp_path / "attacker" / "adapter_model.safetensors").read_bytes() == kept
    fresh = adapters(lively(), both(LORAS["plain"]), torch_seed=99)[ATTACKER]
    fresh.read(tmp_path / "after")
    assert same_bits(fresh.snapshot(), own[ATTACKER].snapshot())


@pytest.mark.parametrize(("saved", "wanted"), [("plain", "sandbox"), ("sandbox", "plain")])
def test_an_adapter_of_another_kind_is_refused(saved, wanted, tmp_path):
    trained_pair(LORAS[saved])[ATTACKER].save(tmp_path / "attacker")
    fresh = adapters(lively(), both(LORAS[wanted]), torch_seed=99)[ATTACKER]
    before = fresh.snapshot()
    with pytest.raises(ValueError, match="differ"):
        fresh.read(tmp_path / "attacker")
    assert same_bits(fresh.snapshot(), before)


def test_an_adapter_of_another_rank_is_refused(tmp_path):
    trained_pair(LORAS["plain"])[ATTACKER].save(tmp_path / "attacker")
    fresh = adapters(lively(), both({**LORAS["plain"], "r": 1}), torch_seed=99)[ATTACKER]
    before = fresh.snapshot()
    with pytest.raises(ValueError, match="differ"):
        fresh.read(tmp_path / "attacker")
    assert same_bits(fresh.snapshot(), before)


@pytest.mark.numeric
@every_lora
@pytest.mark.parametrize("player", list(Player))
def test_an_adapter_inside_its_base_says_the_same_and_leaves_no_trace(lora, player):
    own = trained_pair(lora)
    before, wanted = everything(own[player].model), logits(own[player].model)
    with own[player].merged() as model:
        merged = logits(model)
        assert any("base_layer" in name for name in changed(before, everything(model)))
    assert_close_sums(merged, wanted)
    assert same_bits(everything(own[player].model), before)
    assert torch.equal(logits(own[player].model), wanted)


def test_an_adapter_is_merged_while_it_decodes_and_not_after(monkeypatch):
    own = trained_pair(LORAS["plain"])[DEFENDER]
    seen = []

    def watched(*args, **named):
        seen.append({tuple(m.merged_adapters) for m in layers(own)})
        return local_decode(*args, **named)

    local_decode = local._decode
    monkeypatch.setattr(local, "_decode", watched)
    policy(own).sample(requests())
    assert seen == [{("defender",)}]
    assert {tuple(m.merged_adapters) for m in layers(own)} == {()}


def layers(own):
    return [m for m in own._model.modules() if hasattr(m, "lora_A")]


def test_what_breaks_while_an_adapter_is_merged_leaves_the_base_as_it_was():
    own = trained_pair(LORAS["plain"])[DEFENDER]
    before = everything(own.model)
    with pytest.raises(KeyError), own.merged():
        raise KeyError
    assert same_bits(everything(own.model), before)


def test_in_bfloat16_an_adapter_stays_beside_its_base():
    told = dict.fromkeys(Player, LORAS["plain"])
    own = adapters(lively().bfloat16(), told, torch_seed=5)[DEFENDER]
    before = everything(own.model)
    with own.merged() as model:
        assert same_bits(everything(model), before)
        assert {tuple(m.merged_adapters) for m in layers(own)} == {()}
