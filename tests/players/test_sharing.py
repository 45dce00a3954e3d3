"""Shared and packed prompts give the log-probabilities and gradients of whole rows."""

import copy
import random
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.close import assert_close_sums
from tests.players.by_hand import PAD, Recorder, furthest, gradient_of, moved, network, same_bits
from tests.tiny import GEMMA
from torch.nn import functional

from sparring.players import trials
from sparring.players.fast import decoding, sharing
from sparring.players.fast.sharing import (
    PLAIN,
    SHARED,
    Path,
    abreast,
    packed_logprobs,
    path_of,
    why_plain,
)
from sparring.players.grpo import Grpo, GrpoConfig
from sparring.players.logprobs import every_row, logprobs, microbatches, pad
from sparring.players.trials import causal, probe
from sparring.players.weights import LearningRate, Weights, adapters
from sparring.types import Completion, Player, Sample, SparringError

VOCABULARY = 97
SIZES = {40: (5, 9, 1), 3: (7,), 25: (2, 2, 8, 30)}
"""Prompt length → lengths of its completions; most are past the sliding windows of 16."""
WINDOW = {"sliding_window": 16}
MIXED = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
KINDS = {
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {}),
    "qwen2, some layers slide": (
        "qwen2",
        {**WINDOW, "use_sliding_window": True, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {**GEMMA.network, **WINDOW}),
    "gemma3": ("gemma3_text", {**GEMMA.network, **WINDOW, **MIXED}),
    "mistral, all layers slide": ("mistral", WINDOW),
    "mistral": ("mistral", {"sliding_window": None}),
    "gpt2": ("gpt2", {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}),
}
FREE, COSTLY = 0.0, 0.002
"""What attention costs: a whole group shares a row; two of a group do."""


def recomputing(model):
    assert sharing.recompute(model) == 3
    return model


def checkpointing(model, training=True):
    """As transformers does it, which takes the model's training mode."""
    whole = causal(model)
    whole.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train(training)
    return model


def unchanged(model):
    return model


WAYS = {
    "shared": (unchanged, sharing.shared_logprobs),
    "packed": (unchanged, partial(packed_logprobs, FREE)),
    "packed, recomputing": (recomputing, partial(packed_logprobs, FREE)),
    "packed, checkpointing": (checkpointing, partial(packed_logprobs, FREE)),
    "packed in pairs": (recomputing, partial(packed_logprobs, COSTLY)),
}
CASES = [(kind, way, False) for way in WAYS for kind in KINDS]
CASES += [(kind, way, True) for way in ("shared", "packed, recomputing") for kind in KINDS]
"""And whether an adapter learns; one is enough for a way through a cache, and for a row."""
every_kind = pytest.mark.parametrize("kind", KINDS)
two_ways = pytest.mark.parametrize("way", ["shared", "packed, recomputing"])


def model_of(kind, **more):
    family, settings_ = KINDS[kind]
    return network(family, **{"vocab_size": VOCABULARY, **settings_, **more})


def weights_of(kind, lora):
    """All weights of a model, or an adapter that differs from its base."""
    if not lora:
        return Weights(model_of(kind))
    config = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
    own = adapters(model_of(kind), dict.fromkeys(Player, config), torch_seed=6)[Player.DEFENDER]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(9)
        for p in own.parameters.values():
            p.copy_(torch.randn_like(p) * 0.2)
    return own


def rows(brief=()):
    rng = random.Random("groups")

    def ids(n):
        return tuple(rng.randrange(1, VOCABULARY) for _ in range(n))

    groups = [(ids(before), lengths) for before, lengths in SIZES.items()]
    mixed = [((*brief, *prompt), ids(n)) for prompt, lengths in groups for n in lengths]
    return rng.sample(mixed, len(mixed))


def batch_of(some):
    return pad(some, range(len(some)), PAD, "cpu")


def numbers(compute, model, dtype=torch.float32, brief=()):
    """Log-probabilities of the rows, and the gradient of a sum that weighs every token anew."""
    model, batch = model.to(dtype), batch_of(rows(brief))
    logp_BT = compute(model, batch, 0.7)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        weight_BT = torch.randn_like(batch.mask_BT)
    (logp_BT * weight_BT).sum().backward()
    return logp_BT.detach(), gradient_of(model)


def shapes(model):
    """The shapes of the token ids that the body of a model is run on from here on."""
    shapes_ = []
    causal(model).base_model.register_forward_pre_hook(
        lambda _, args, inputs: shapes_.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    return shapes_


@pytest.mark.numeric
@pytest.mark.parametrize(("kind", "way", "lora"), CASES)
def test_logprobs_and_gradient_are_those_of_whole_rows(kind, way, lora):
    own = weights_of(kind, lora)
    prepare, compute = WAYS[way]
    other = prepare(copy.deepcopy(own.model))
    whole_BT, whole = numbers(logprobs, own.model)
    logp_BT, gradient = numbers(compute, other)
    assert whole_BT.min() < -9, "the model has opinions"
    assert_close_sums(logp_BT, whole_BT)
    assert_close_sums(gradient, whole)
    assert all(gradient[n].abs().max() > 0 for n in own.parameters if lora), "every layer learns"


@pytest.mark.numeric
@pytest.mark.parametrize("kind", [*KINDS])
def test_completions_in_parts_of_similar_length_have_the_same_numbers(kind, monkeypatch):
    models = [model_of(kind) for _ in range(2)]
    whole_BT, whole = numbers(logprobs, models[0])
    path_of(models[1])
    monkeypatch.setattr(trials, "RUN", 1)
    run_shapes = shapes(models[1])
    logp_BT, gradient = numbers(SHARED.logprobs, models[1])
    assert run_shapes[:2] == [(3, 40), (1, 29)]
    assert sum(many * steps for many, steps in run_shapes[1:]) < 29 + 7 * 9, "padding is left out"
    assert_close_sums(logp_BT, whole_BT)
    assert_close_sums(gradient, whole)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 60))
def test_each_part_saves_the_padding_that_a_run_is_worth(lengths, worth):
    parts = sharing.alike(lengths, worth)
    assert sorted(i for rows in parts for i in rows) == [*range(len(lengths))]
    run = sum(len(rows) * max(lengths[i] for i in rows) for rows in parts)
    assert len(lengths) * max(lengths) - run >= worth * (len(parts) - 1)
    assert parts == [[*range(len(lengths))]] or len(parts) > 1


def test_padding_is_worth_more_runs_in_a_wide_model_than_in_the_sandbox():
    replies = [132, 92, 80, 60, 50, 45, 40, 30, 28]
    runs = [len(sharing.alike(replies, trials.price(of(width)))) for width in (128, 576)]
    assert runs == [1, 2]


@pytest.mark.parametrize(("width", "device", "tokens"), [(576, "cuda", 256), (4096, "cuda", 256)])
def test_a_run_on_an_accelerator_costs_reading_the_weights_however_wide_they_are(
    width, device, tokens
):
    assert trials.price(of(width, device)) == tokens
    assert trials.price(of(128, device)) == trials.price(of(128, "cpu")) > tokens


def of(width, device="cpu"):
    """Stands in for a model of that hidden size on that device."""
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(hidden_size=width))
    return SimpleNamespace(config=config, device=torch.device(device))


@pytest.mark.numeric
@pytest.mark.parametrize("kind", ["llama", "gemma2", "gemma3", "mistral, all layers slide"])
def test_eager_attention_is_given_a_mask_that_it_can_add(kind):
    models = [model_of(kind, attn_implementation="eager") for _ in range(2)]
    whole_BT, whole = numbers(logprobs, models[0])
    logp_BT, gradient = numbers(partial(packed_logprobs, FREE), recomputing(models[1]))
    assert_close_sums(logp_BT, whole_BT)
    assert_close_sums(gradient, whole)


@pytest.mark.parametrize(
    ("kind", "way"),
    [(kind, way) for kind in ("gpt2", "qwen2", "gemma3") for way in ("shared", "packed")],
)
def test_in_bfloat16_they_are_as_near_to_the_truth_as_whole_rows_are(kind, way):
    prepare, compute = WAYS[way]
    truth_BT, truth = numbers(logprobs, model_of(kind))
    whole_BT, whole = numbers(logprobs, model_of(kind), torch.bfloat16)
    logp_BT, gradient = numbers(compute, prepare(model_of(kind)), torch.bfloat16)
    off, off_whole = (logp_BT - truth_BT).abs().mean(), (whole_BT - truth_BT).abs().mean()
    assert off < 1.5 * off_whole
    assert furthest(gradient, truth) < 1.5 * furthest(whole, truth)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3", "gpt2"])
def test_on_a_cpu_attention_is_in_float32_at_least(kind, dtype, monkeypatch):
    model, attention, seen = model_of(kind).to(dtype), functional.scaled_dot_product_attention, []
    path_of(model)

    def watched(query, *args, **options):
        seen.append(query.dtype)
        return attention(query, *args, **options)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", watched)
    SHARED.logprobs(model, batch_of(rows()), 1.0).sum().backward()
    assert set(seen) == {torch.promote_types(dtype, torch.float32)}
    assert model.config.get_text_config()._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("way", "run"),
    [
        # Three prompts of at most 40 tokens; a reply's last token is predicted and never read.
        ("shared", [(3, 40), (8, 29)]),
        ("packed", [(3, 40 + 4 * 29)]),
        ("packed in pairs", [(2 + 1 + 2, 40 + 2 * 29)]),
    ],
)
def test_a_prompt_runs_once_for_all_that_share_its_row(way, run):
    model, (_, compute) = model_of("llama"), WAYS[way]
    path_of(model)
    run_shapes = shapes(model)
    compute(model, batch_of(rows()), 1.0)
    assert run_shapes == run


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_a_mask_is_one_bool_for_every_two_places_of_a_row(kind):
    model, masks_by_call = model_of(kind), []
    causal(model).base_model.register_forward_pre_hook(
        lambda _, args, inputs: masks_by_call.append(inputs["attention_mask"]), with_kwargs=True
    )
    packed_logprobs(FREE, model, batch_of(rows()), 1.0)
    masks = masks_by_call[-1]
    for mask in masks.values() if isinstance(masks, dict) else [masks]:
        assert (mask.dtype, mask.shape) == (torch.bool, (3, 1, 40 + 4 * 29, 40 + 4 * 29))


@pytest.mark.numeric
@pytest.mark.parametrize(("way", "kind"), [("shared", "qwen2"), ("packed", "gemma2")])
def test_replies_of_one_token_need_their_prompt_alone(way, kind):
    model = model_of(kind)
    batch = batch_of([((3, 4, 5), (6,)), ((3, 4, 5), (7,)), ((8, 9), (10,))])
    whole_BT = logprobs(model, batch, 1.0)
    run_shapes = shapes(model)
    assert_close_sums(WAYS[way][1](model, batch, 1.0), whole_BT)
    assert run_shapes == [(2, 3)]


@two_ways
def test_the_same_update_twice_is_the_same_to_the_bit(way):
    prepare, compute = WAYS[way]
    first, second = (numbers(compute, prepare(model_of("gemma2"))) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert same_bits(first[1], second[1])


def samples():
    rng = random.Random("advantages")
    return [
        Sample(
            Player.DEFENDER,
            Completion("", reply, tuple(rng.uniform(-6, -1) for _ in reply), prompt),
            rng.gauss(0, 1),
        )
        for prompt, reply in rows()
    ]


@pytest.mark.numeric
@pytest.mark.parametrize("beta", [0.0, 0.05])
@pytest.mark.parametrize(("way", "budget"), [("shared", 90), ("packed, recomputing", 220)])
def test_an_update_is_the_plain_ones_in_any_micro_batches(monkeypatch, way, budget, beta):
    packed = Path(partial(sharing.packed_tokens, FREE), partial(packed_logprobs, FREE))
    path = SHARED if way == "shared" else packed
    results = []
    for way_, budget_ in ((PLAIN, 10_000), (path, 10_000), (path, budget), (path, 1)):
        monkeypatch.setattr("sparring.players.grpo.path_of", lambda model, way_=way_: way_)
        model = WAYS[way][0](model_of("qwen2"))
        optimizer = Recorder(Weights(model), LearningRate(1e-3))
        config = GrpoConfig(beta=beta, micro_batch_tokens=budget_)
        reference = Weights(moved(model, 0.02)).snapshot()
        metrics = Grpo(optimizer, PAD, config, reference).update(samples())
        results.append((optimizer.gradient, metrics))
    (plain_gradient, plain_metrics), *others = results
    for gradient, metrics in others:
        assert_close_sums(gradient, plain_gradient)
        assert_close_sums(metrics, plain_metrics, scale=1.0)


def test_a_group_is_cut_only_where_the_budget_ends():
    some = [((7,) * 10, (1,) * 4) for _ in range(5)] + [((8,) * 6, (1,) * 2) for _ in range(3)]
    once = sharing.once
    assert list(microbatches(some, 10 + 5 * 4, once)) == [[0, 1, 2, 3, 4], [5, 6, 7]]
    assert list(microbatches(some, 10 + 3 * 4, once)) == [[0, 1, 2], [3, 4], [5, 6, 7]]
    assert list(microbatches(some, 2 * (10 + 4), every_row)) == [[0, 1], [2, 3], [4, 5], [6, 7]]


sizes = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12)


@settings(deadline=None)
@given(sizes, st.integers(1, 80))
def test_micro_batches_of_groups_run_no_more_than_the_budget(groups, budget):
    prompts = [(n,) * before for n, (before, _) in enumerate(groups)]
    some = [(prompts[n % len(prompts)], (1,) * groups[n % len(groups)][1]) for n in range(20)]
    chunks = list(microbatches(some, budget, sharing.once))
    assert sorted(i for chunk in chunks for i in chunk) == list(range(len(some)))
    for chunk in chunks:
        distinct = {some[i][0] for i in chunk}
        longest = max(len(some[i][1]) for i in chunk)
        run = len(distinct) * max(map(len, distinct)) + len(chunk) * longest
        assert len(chunk) == 1 or run <= budget


def packs_siblings(path):
    return getattr(path.logprobs, "func", None) is packed_logprobs


@every_kind
def test_siblings_share_rows_where_layers_compute_again_and_only_there(kind):
    assert path_of(model_of(kind)) is SHARED
    again = [
        recomputing(model_of(kind)),
        *(checkpointing(model_of(kind), on) for on in (False, True)),
    ]
    assert all(packs_siblings(path_of(model)) for model in again)


def hybrid():
    """A model whose cache holds more than keys and values."""
    linear = {f"linear_{n}": 2 for n in ("num_value_heads", "num_key_heads")}
    linear |= {f"linear_{n}": 8 for n in ("key_head_dim", "value_head_dim")}
    experts = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8}
    layers = {"layer_types": ["linear_attention", "full_attention"], "num_hidden_layers": 2}
    return network("qwen3_next", **linear, **experts, shared_expert_intermediate_size=8, **layers)


def bloom():
    """A model that counts its places from a mask of two dimensions."""
    return network("bloom", n_layer=3, n_head=2)


def flash(kind):
    model = model_of(kind)
    model.config._attn_implementation_internal = "flash_attention_2"
    return model


WITHOUT_SHARING = {
    "recurrent layers": hybrid,
    "kernels without masks": lambda: flash("mistral"),
    "kernels without masks, recomputing": lambda: recomputing(flash("mistral")),
    "places by a mask, recomputing": lambda: recomputing(bloom()),
    "places by a mask, checkpointing": lambda: checkpointing(bloom()),
    "layers that look ahead": lambda: recomputing(
        model_of("gemma3", use_bidirectional_attention=True)
    ),
}


@pytest.mark.parametrize("build", WITHOUT_SHARING.values(), ids=WITHOUT_SHARING)
def test_models_that_can_do_neither_run_whole_rows(build):
    model = build()
    assert path_of(model) is PLAIN
    assert why_plain(model), "and a run says so"


def test_a_model_is_tried_with_tokens_from_the_middle_of_its_vocabulary():
    """SmolLM2's first ids are special, and on them it differs from itself by nats in bfloat16."""
    model = model_of("llama")
    step = model.config.vocab_size // 11
    ids = {i for row in probe(model) for part in row for i in part}
    assert ids == {n * step for n in range(1, 10)}
    assert step > 1


def test_what_would_compute_wrong_numbers_is_refused():
    with pytest.raises(SparringError, match="dropped the cache"):
        sharing.shared_logprobs(checkpointing(model_of("llama")), batch_of(rows()), 1.0)


BRIEF = tuple(range(5, 55))


@pytest.mark.numeric
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2", "gemma2", "mistral, all layers slide"])
def test_a_brief_runs_once_for_all_groups_unless_layers_see_a_window(kind, lora, monkeypatch):
    monkeypatch.setattr(decoding, "WORTH", 100)
    own = weights_of(kind, lora)
    other = copy.deepcopy(own.model)
    whole_BT, whole = numbers(logprobs, own.model, brief=BRIEF)
    assert path_of(other) is SHARED
    run_shapes = shapes(other)
    logp_BT, gradient = numbers(sharing.shared_logprobs, other, brief=BRIEF)
    # 50 tokens of brief once, the rest of three prompts, eight replies but for their last token.
    slides = kind.startswith(("gemma2", "mistral"))
    assert run_shapes == ([(3, 90), (8, 29)] if slides else [(1, 50), (3, 40), (8, 29)])
    assert_close_sums(logp_BT, whole_BT)
    assert_close_sums(gradient, whole)


def test_prompts_that_are_one_anothers_beginning_keep_a_token_of_their_own():
    batch = batch_of([((7,) * n, (3, 4)) for n in (200, 150, 180)])
    assert decoding.trunk(model_of("llama"), batch.prompt_PL, batch.seen_PL) == 149
    few = batch_of([((7, n), (3,)) for n in range(5)])
    assert decoding.trunk(model_of("llama"), few.prompt_PL, few.seen_PL) == 0, "not worth a run"


def test_as_many_share_a_row_as_pays_for_the_attention_between_them():
    # By hand, in tokens: a group of 8 in rows of n costs (8/n) S (1 + S/1152), S = prompt + 48 n.
    # Prompt 20: 576, 511, 502, 546 for n = 1, 2, 4, 8; prompt 300: 3625, 2129, 1404, 1090.
    wide = {"hidden_size": 192, "num_hidden_layers": 1}
    pair, eager = (
        sharing.pair_cost(model_of("llama", **wide, attn_implementation=kernel))
        for kernel in ("sdpa", "eager")
    )
    assert (pair, eager) == (pytest.approx(1 / 1152), pytest.approx(1 / 384))
    assert [abreast(pair, (8, 8), prompt, 48) for prompt in (20, 300)] == [4, 8]
    assert abreast(pair, (8,), 20, 480) == 1, "long replies to a short prompt"
    assert abreast(eager, (8, 8), 20, 48) == 2


@settings(deadline=None, max_examples=30)
@given(st.floats(0, 0.1), st.integers(1, 200))
def test_what_runs_is_what_was_reckoned_and_within_the_budget(pair, budget):
    model = model_of("llama", num_hidden_layers=1)
    path_of(model)
    run_shapes, cost = shapes(model), partial(sharing.packed_tokens, pair)
    for index in microbatches(rows(), budget, cost):
        batch = pad(rows(), index, PAD, "cpu")
        with torch.no_grad():
            packed_logprobs(pair, model, batch, 1.0)
        groups = torch.bincount(batch.owner_B).tolist()
        prompt, reply = batch.prompt_PL.shape[1], batch.target_BT.shape[1]
        many = abreast(pair, groups, prompt, reply)
        places = prompt + many * (reply - (many > 1))  # a reply's last token is not run
        reckoned = cost(groups, prompt, reply)
        assert reckoned <= every_row(groups, prompt, reply)
        assert run_shapes[-1] == (reckoned // (prompt + many * reply), places)
        assert len(index) == 1 or reckoned <= budget
