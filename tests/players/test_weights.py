"""Weights of a model or an adapter survive holding, saving and reading to the bit."""

import ast
import copy
import functools

import pytest
import torch
from peft import PeftModel
from tests.close import assert_close_sums
from tests.players.by_hand import network
from tests.players.lively import (
    batch_of,
    changed,
    everything,
    flat,
    lively,
    logits,
    louder,
    policy,
    requests,
    same_bits,
    step,
    train,
    words,
)
from torch.profiler import profile
from transformers import AutoModelForCausalLM

from sparring.players import local
from sparring.players.fast import decoding, path_of
from sparring.players.loading import load_model, load_tokenizer, stop_ids
from sparring.players.logprobs import logprobs, pad
from sparring.players.weights import LearningRate, Optimizer, Weights, adapters
from sparring.sandbox.model import untrained
from sparring.types import Player, UsageError

ATTACKER, DEFENDER = Player.ATTACKER, Player.DEFENDER
PLAIN = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
TIED = {"modules_to_save": ["embed_tokens", "lm_head"], "ensure_weight_tying": True}
LORAS = {"plain": PLAIN, "sandbox": {**PLAIN, **TIED}}
every_lora = pytest.mark.parametrize("lora", LORAS.values(), ids=LORAS)
every_player = pytest.mark.parametrize("player", list(Player))


def lacking(tensors):
    return dict(list(tensors.items())[1:])


def crowded(tensors):
    return {**tensors, "another": torch.ones(3)}


def misshapen(tensors):
    """A single row where there should be many: it would broadcast without a word."""
    name = list(tensors)[-2]
    return {**tensors, name: tensors[name][:1]}


@pytest.mark.parametrize("spoil", [lacking, crowded, misshapen])
def test_weights_that_do_not_fit_are_refused_before_anything_changes(spoil):
    weights = Weights(lively(3))
    before, other = weights.snapshot(), spoil(Weights(lively(4)).snapshot())
    with pytest.raises(ValueError, match="differ"):
        weights.load(other)
    with pytest.raises(ValueError, match="differ"), weights.holding(other):
        pass
    assert same_bits(weights.snapshot(), before)


def test_transformers_loads_a_whole_model_that_was_saved(tmp_path):
    weights = train(Weights(lively()))
    weights.save(tmp_path / "defender")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "defender").eval()
    assert torch.equal(logits(loaded), logits(weights.model))
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    weights.model.save_pretrained(tmp_path / "sharded", max_shard_size="300KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 3
    for name in ("defender", "sharded"):
        again = Weights(lively(4))
        again.read(tmp_path / name)
        assert same_bits(again.snapshot(), weights.snapshot())
        assert torch.equal(logits(again.model), logits(weights.model))


def test_a_saved_model_is_loaded_as_one_plays_with_it(tmp_path):
    model = louder(untrained(len(words()), 3))
    Weights(model).save(tmp_path)
    words().save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path))
    assert not loaded.training
    assert torch.equal(logits(loaded), logits(model))
    assert stop_ids(loaded) == [5]
    ids = load_tokenizer(str(tmp_path))("open the dragon vault").input_ids
    assert ids == words()("open the dragon vault").input_ids
    assert len(ids) == 4


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_folder_that_holds_no_model_is_a_usage_error(tmp_path, load):
    with pytest.raises(UsageError, match=r"wanted a folder with config\.json"):
        load(str(tmp_path / "nowhere"))


def test_holding_other_weights_nests_and_ends_to_the_bit_even_when_it_fails(tmp_path):
    weights = Weights(lively(3))
    first, second, third = (Weights(lively(seed)).snapshot() for seed in (3, 4, 5))
    copies = copy.deepcopy((first, second))
    Weights(lively(5)).save(tmp_path)

    def fail_while_held():
        with weights.holding(second):
            assert same_bits(weights.snapshot(), second)
            with weights.holding(tmp_path):
                assert same_bits(weights.snapshot(), third)
                train(weights)
            assert same_bits(weights.snapshot(), second)
            train(weights)
            raise RuntimeError("the dragon woke")

    with pytest.raises(RuntimeError, match="the dragon woke"):
        fail_while_held()
    assert same_bits(weights.snapshot(), first)
    train(weights)
    assert all(same_bits(*pair) for pair in zip((first, second), copies, strict=True))


def both(lora, base=None, torch_seed=5):
    base = lively() if base is None else base
    return adapters(base, dict.fromkeys(Player, lora), torch_seed)


def trained_pair(lora):
    """Two adapters that both differ from their base and from each other."""
    own = both(lora)
    train(own[ATTACKER], steps=3)
    train(own[DEFENDER], steps=1, rate=3e-2)
    return own


@every_lora
def test_new_adapters_are_drawn_from_their_seed_alone_and_play_as_their_base(lora):
    snapshots = []
    for process, seed in ((1, 5), (2, 5), (1, 6)):
        base = lively()
        expected = logits(base)
        torch.manual_seed(process)
        before = torch.random.get_rng_state()
        own = both(lora, base, seed)
        assert torch.equal(torch.random.get_rng_state(), before)
        snapshots.append(own[ATTACKER].snapshot())
    assert same_bits(snapshots[0], snapshots[1])
    assert not same_bits(snapshots[0], snapshots[2])
    attacker, defender = (set(own[p].parameters) for p in (ATTACKER, DEFENDER))
    assert len(attacker) == (28 if lora is PLAIN else 29)
    assert {name.replace("attacker", "defender") for name in attacker} == defender
    assert not attacker & defender
    assert all("lora_" in n or "modules_to_save.attacker" in n for n in attacker)
    assert all(torch.equal(logits(own[player].model), expected) for player in Player)


def test_dropout_is_off_unless_the_learner_turns_it_on():
    own = trained_pair({**PLAIN, "lora_dropout": 0.5})[DEFENDER]
    assert torch.equal(logits(own.model), logits(own.model))
    assert policy(own).sample(requests()) == policy(own).sample(requests())


@every_lora
@every_player
def test_training_one_adapter_leaves_the_other_and_the_base_as_they_are(lora, player):
    own = trained_pair(lora)
    model = own[player].model
    before = everything(model)
    train(own[player])
    moved = changed(before, everything(model))
    assert moved
    assert all(f".{player.value}." in name for name in moved)
    assert {name for name in own[player].parameters if "lora_" in name} <= moved


@every_lora
def test_sampling_for_one_player_between_another_ones_steps_changes_nothing(lora):
    apart, mixed = both(lora), both(lora)
    train(apart[ATTACKER], steps=2)
    optimizer = Optimizer(mixed[ATTACKER], LearningRate(1e-2))
    for _ in range(2):
        policy(mixed[DEFENDER], length=3).sample(requests())
        step(optimizer)
    assert same_bits(apart[ATTACKER].snapshot(), mixed[ATTACKER].snapshot())


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "qwen2"])
@pytest.mark.parametrize("frozen", [True, False], ids=["adapters", "full"])
def test_no_row_of_a_batch_copies_the_output_layer(kind, frozen):
    """torch would, in every step, where the last position is cut out of each row: 10 GB."""
    model, vocabulary, rows = network(kind, vocab_size=5000), 5000, 6
    lora = dict.fromkeys(Player, PLAIN)
    weights = adapters(model, lora, 1)[DEFENDER] if frozen else Weights(model)
    prompts = [(7, 8, 9, number) for number in range(rows)]
    ways = [
        lambda: [*local.begin(weights.model, prompts, range(rows), 0).logits_BV],
        lambda: [*decoding.Apart(weights.model, prompts, range(rows)).logits_BV],
        lambda: logprobs(
            weights.model, pad([(p, (1, 2)) for p in prompts], range(rows), 0, "cpu"), 1.0
        ),
    ]
    for way in ways:
        with torch.no_grad(), profile(profile_memory=True, record_shapes=True) as profiled:
            way()
        copies = [
            event.input_shapes
            for event in profiled.key_averages(group_by_input_shape=True)
            if event.key == "aten::bmm"
            and [True for s in event.input_shapes if s and s[0] > 1 and vocabulary in s]
        ]
        assert copies == []


def test_tied_embeddings_stay_tied_in_every_adapter():
    model = trained_pair(LORAS["sandbox"])[DEFENDER].model.get_base_model()
    embeddings, tied = model.model.embed_tokens, {}
    for player in Player:
        tied[player] = embeddings.modules_to_save[player.value].weight
        assert model.lm_head.modules_to_save[player.value].weight is tied[player]
    original = embeddings.original_module.weight
    assert torch.equal(original, lively().model.embed_tokens.weight)
    assert not torch.equal(tied[ATTACKER], tied[DEFENDER])
    assert not torch.equal(tied[ATTACKER], original)


@every_lora
def test_switching_players_switches_weights_and_back_also_while_one_is_held(lora):
    own = trained_pair(lora)
    attacker, defender = logits(own[ATTACKER].model), logits(own[DEFENDER].model)
    assert (attacker - defender).abs().max().item() > 0.1
    with own[ATTACKER].holding(both(lora, torch_seed=8)[ATTACKER].snapshot()):
        assert_close_sums(logits(own[ATTACKER].model), logits(lively()))
        assert torch.equal(logits(own[DEFENDER].model), defender)
    assert torch.equal(logits(own[ATTACKER].model), attacker)
    assert torch.equal(logits(own[DEFENDER].model), defender)


@every_lora
@every_player
def test_a_saved_adapter_is_read_to_the_bit_by_peft_and_by_us_and_trains_on(lora, player, tmp_path):
    own = trained_pair(lora)[player]
    own.save(tmp_path / "a")
    expected = logits(own.model)
    loaded = PeftModel.from_pretrained(lively(), str(tmp_path / "a")).eval()
    assert torch.equal(logits(loaded), expected)
    assert (expected - logits(lively())).abs().max().item() > 0.1
    fresh = both(lora, torch_seed=99)[player]
    before = everything(fresh.model)
    fresh.read(tmp_path / "a")
    assert same_bits(fresh.snapshot(), own.snapshot())
    assert torch.equal(logits(fresh.model), expected)
    moved = changed(before, everything(fresh.model))
    assert all(f".{player.value}." in name for name in moved)
    assert same_bits(train(fresh).snapshot(), train(own).snapshot())


@pytest.mark.parametrize(
    ("saved", "own"),
    [("plain", LORAS["sandbox"]), ("sandbox", PLAIN), ("plain", {**PLAIN, "r": 1})],
)
def test_an_adapter_of_another_kind_or_rank_is_refused(saved, own, tmp_path):
    trained_pair(LORAS[saved])[ATTACKER].save(tmp_path / "attacker")
    fresh = both(own, torch_seed=99)[ATTACKER]
    before = fresh.snapshot()
    with pytest.raises(ValueError, match="differ"):
        fresh.read(tmp_path / "attacker")
    assert same_bits(fresh.snapshot(), before)


def merged_into(weights):
    """The names of the adapters that are merged into their layers."""
    layers = [m for m in weights._model.modules() if hasattr(m, "lora_A")]
    return {tuple(m.merged_adapters) for m in layers}


@pytest.mark.numeric
@every_lora
@every_player
def test_an_adapter_inside_its_base_computes_the_same_and_leaves_no_trace(lora, player):
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
    own = both(PLAIN, lively().to(getattr(torch, dtype)))[DEFENDER]
    decode, states = local.decode, []

    def watched(*args):
        states.append(merged_into(own))
        return decode(*args)

    monkeypatch.setattr(local, "decode", watched)
    policy(own).sample(requests())
    assert states == [{inside}]
    assert merged_into(own) == {()}


ON_TIED = {
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "both, by a pattern": {"target_modules": ".*(proj|head|tokens)"},
    "head in full": {"modules_to_save": ["lm_head"]},
    "embedding in full": {"modules_to_save": ["embed_tokens"]},
    "some tokens": {"trainable_token_indices": [*range(70, 100)]},
    "a bare matrix": {"target_modules": [], "target_parameters": ["mlp.down_proj.weight"]},
}


@pytest.mark.numeric
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
@pytest.mark.parametrize("lora", ON_TIED.values(), ids=ON_TIED)
def test_an_adapter_on_tied_weights_samples_as_it_learns(lora, family):
    model, lora = lively(), {**PLAIN, "target_modules": ["q_proj"], **lora}
    if family == "gpt_neox":  # where the matrices have other names
        sizes = {"vocab_size": len(words()), "tie_word_embeddings": True, "rotary_pct": 1.0}
        model = louder(network("gpt_neox", **sizes), 3, 10)
        names = {"lm_head": "embed_out", "embed_tokens": "embed_in", "q_proj": "query_key_value"}
        names |= {"proj|head|tokens": "value|embed_out|embed_in", "down_proj": "dense_4h_to_h"}
        text = functools.reduce(lambda text, pair: text.replace(*pair), names.items(), str(lora))
        lora = ast.literal_eval(text)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    own = adapters(model, dict.fromkeys(Player, lora), torch_seed=5)[DEFENDER]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        for p in own.parameters.values():
            p.add_(torch.randn_like(p) * 0.1)
    drawn = flat(policy(own).sample(requests()))
    batch, way = batch_of(drawn), path_of(own.model)
    sampled = [logp for completion in drawn for logp in completion.logprobs]
    with torch.no_grad():
        for learn in (logprobs, way.logprobs):
            learned = learn(own.model, batch, 1.0)[batch.mask_BT.bool()]
            assert_close_sums(learned.tolist(), sampled, scale=10.0)
