"""Other families than the sandbox's: absolute positions, sliding windows, soft caps, other heads.

Prompts are longer than every sliding window, and shorter ones are padded on the left beside them.
"""

import gc
import weakref

import numpy as np
import pytest
import torch
import transformers
from tests.close import SPACINGS, assert_close_sums
from tests.players.lively import batch_of, flat, louder, one_by_one, policy, requests, words
from tests.tiny import FAMILIES as CHAT_FAMILIES
from tests.tiny import save_model

from sparring.players.chat import Chat
from sparring.players.fast import decoding
from sparring.players.fast.sharing import SHARED, path_of
from sparring.players.loading import load_model, load_tokenizer
from sparring.players.local import LocalPolicy
from sparring.players.logprobs import logprobs, pad
from sparring.players.player import Request, Sampling
from sparring.players.weights import Weights
from sparring.types import Message, UsageError

pytestmark = pytest.mark.numeric

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 5,
}
WINDOW = {"sliding_window": 5}
MIXED = {**WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
FAMILIES = {
    "GPT2": {},
    "Llama": {"tie_word_embeddings": False},
    "Qwen2": {"tie_word_embeddings": True},
    "Qwen3": {"head_dim": 8},
    "Mistral": WINDOW,
    "Gemma2": {**MIXED, "head_dim": 8, "query_pre_attn_scalar": 8},
    "Gemma3Text": {**MIXED, "head_dim": 8, "query_pre_attn_scalar": 8},
}
LINEAR = {f"linear_{n}": 2 for n in ("num_key_heads", "num_value_heads")}
LINEAR |= {f"linear_{n}": 8 for n in ("key_head_dim", "value_head_dim")}
OTHERS = {
    "Qwen3_5Text": {**LINEAR, "head_dim": 8, "layer_types": ["linear_attention", "full_attention"]},
    "FalconH1": {f"mamba_{n}": 8 for n in ("d_head", "d_state", "chunk_size")}
    | {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_n_groups": 1},
    "Lfm2": {"block_ff_dim": 48, "layer_types": ["conv", "full_attention"]},
    "RecurrentGemma": {"attention_window_size": 5, "lru_width": 32, "num_hidden_layers": 3},
    "OPT": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "Bloom": {"n_layer": 2, "n_head": 4},
    "GptOss": {**MIXED, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1},
    "Olmo3": MIXED,
}
"""Recurrent states, a head behind the decoder, alibi, sinks in the softmax; and a plain one."""
# In float64 nothing but a wrong mask, position or cache can make a difference. Gemma 2's eager
# attention casts a float64 mask to float32, where it overflows; others know no float64.
DTYPES = dict.fromkeys(["Gemma2", "GptOss", "Bloom"], torch.float32)
LIMIT = dict.fromkeys(FAMILIES.keys() - {"Gemma2"}, 8)
"""Spacings of float32, which all log-probabilities are."""
every_family = pytest.mark.parametrize("family", FAMILIES)


def tiny(family):
    config = getattr(transformers, f"{family}Config")
    kind = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
    model = getattr(transformers, f"{family.removesuffix('Text')}{kind}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        more = {**SMALL, **(FAMILIES | OTHERS)[family]}
        network = model(config(vocab_size=len(words()), **more))
    return louder(network, matrices=12.0, embeddings=10.0).to(DTYPES.get(family, torch.float64))


def alone(model, prompt, reply):
    """Log-probabilities [T] from one row without padding, mask, positions or cache."""
    logits_TV = model(torch.tensor([[*prompt, *reply]]), use_cache=False).logits[0]
    logp_TV = (logits_TV[len(prompt) - 1 : -1].float() / 0.9).log_softmax(-1)
    return logp_TV[range(len(reply)), list(reply)]


@pytest.mark.parametrize("family", FAMILIES | OTHERS)
def test_sampled_logprobs_are_those_of_single_batches_of_the_learner_and_of_a_bare_forward(family):
    sampler = policy(tiny(family), temperature=0.9)
    model, completions = sampler.weights.model, flat(sampler.sample(requests()))
    assert len({len(c.token_ids) for c in completions}) >= 3
    assert len({len(c.prompt_ids) for c in completions}) >= 4
    assert max(len(c.prompt_ids) for c in completions) > 3 * WINDOW["sliding_window"]
    logp_BT = logprobs(model, batch_of(completions, sampler.chat.pad_id), 0.9)
    single = one_by_one(sampler)
    bare = [alone(model, c.prompt_ids, c.token_ids) for c in completions]
    assert [c.token_ids for c in single] == [c.token_ids for c in completions]
    for row, completion in enumerate(completions):
        learned = logp_BT[row, : len(completion.token_ids)].tolist()
        for other in (learned, bare[row].tolist(), single[row].logprobs):
            assert_close_sums(other, completion.logprobs, limit=LIMIT.get(family, SPACINGS))
    # After sampling: what inference mode left in the model must not stop a gradient.
    logp_BT.sum().backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    torch.cat(bare).sum().backward()
    by_rows = {name: p.grad for name, p in model.named_parameters()}
    assert_close_sums(together, by_rows, dtype=torch.float32)  # log-probabilities are


@every_family
def test_a_saved_model_reads_back(family, tmp_path):
    model, other = tiny(family), tiny(family)
    Weights(model).save(tmp_path)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(0.5)
    Weights(other).read(tmp_path)
    ids = torch.tensor([[3, 100, 200, 5, 4]])
    with torch.no_grad():
        assert torch.equal(other(ids).logits, model(ids).logits)


PROMPTS = [tuple(range(70, 80)), (80, 81, 82), tuple(range(90, 107))]
OWNER = (2, 0, 0, 1, 2, 0, 2, 0)
LEAVE = {3: (0, 1, 2, 4, 6), 5: (1, 3, 4), 36: (2,)}
"""Step → which of the rows there go on."""


def walk(monkeypatch, model, forked, owner=OWNER, prompts=PROMPTS):
    """Logits after each of 40 decoding steps, while rows finish."""
    monkeypatch.setattr(decoding, "fits", lambda model: forked)
    rng = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        steps = decoding.begin(model, prompts, owner, 0)
        assert isinstance(steps, decoding.Forked) == forked
        logits = [steps.logits_BV]
        for t in range(40):
            rows = range(len(logits[-1]))
            going = torch.tensor([i for i in LEAVE.get(t, rows) if i in rows] or [0])
            steps.advance(torch.randint(70, 100, (len(going),), generator=rng), going)
            logits.append(steps.logits_BV)
    return logits


def assert_alike(copied, forked, tolerance=1e-8):
    for expected, actual in zip(copied, forked, strict=True):
        assert torch.allclose(actual, expected, rtol=0, atol=tolerance * expected.abs().max())


WALKS = {f"{family}, shared": (family, 0, OWNER) for family in FAMILIES if family != "GPT2"}
for kind in ("Llama", "Gemma2"):
    WALKS |= {f"{kind}, short": (kind, 32, OWNER), f"{kind}, alone": (kind, 0, (2, 0, 1))}


@pytest.mark.parametrize(("family", "short", "owner"), WALKS.values(), ids=WALKS)
def test_logits_are_those_of_the_models_own_cache_while_rows_leave_and_room_is_made(
    family, short, owner, monkeypatch
):
    """Siblings meet one copy of their prompt's keys; a short prompt's, or a lone row's, are its
    own."""
    model = tiny(family)
    assert decoding.fits(model)
    before = model.config._attn_implementation
    monkeypatch.setattr(decoding, "_SHORT", short)
    copied, forked = (walk(monkeypatch, model, kind, owner) for kind in (False, True))
    assert_alike(copied, forked, 1e-4 if family == "Gemma2" else 1e-8)
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("family", OTHERS)
def test_a_trial_finds_which_models_decode_from_one_copy(family):
    model = tiny(family)
    assert decoding.fits(model) == (family in ("OPT", "Olmo3"))
    batch = batch_of(flat(policy(model).sample(requests()[:2])))
    assert (path_of(model) is SHARED) == (family in ("Bloom", "GptOss", "Olmo3"))
    assert_close_sums(path_of(model).logprobs(model, batch, 1.0), logprobs(model, batch, 1.0))


@pytest.mark.parametrize("family", ["Llama", "Qwen3_5Text", "Bloom", "OPT"])
def test_only_the_last_token_of_a_prompt_meets_the_head(family):
    """The logits of 16 prompts of 300 tokens would be 2.9 GiB at Qwen's vocabulary."""
    sampler, places = policy(tiny(family)), []
    head = sampler.weights.model.get_output_embeddings()
    head.register_forward_hook(lambda _, args, logits: places.append(logits.shape[1]))
    sampler.sample(requests())
    assert set(places) == {1}


def test_a_model_that_decodes_otherwise_than_it_learns_is_refused():
    """Its attention sees less the further it has decoded."""
    model = tiny("Llama")
    forward = model.model.layers[1].forward

    def forgetting(hidden, **options):
        return forward(hidden * (1.5 if hidden.shape[1] == 1 else 1.0), **options)

    model.model.layers[0].forward = forgetting
    with pytest.raises(UsageError, match="LlamaForCausalLM cannot be played: how it is run"):
        policy(model)


def test_a_prompts_keys_exist_once_and_go_with_the_batch_without_the_collector_of_cycles(
    monkeypatch,
):
    monkeypatch.setattr(decoding, "_SHORT", 0)
    with torch.inference_mode():
        steps = decoding.begin(tiny("Llama"), PROMPTS, OWNER, 0)
    assert {len(layer.prompt[0]) for layer in steps.cache.layers} == {3}
    gone = weakref.ref(steps.cache.layers[0])
    gc.disable()
    try:
        del steps
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])
def test_tokens_that_all_prompts_begin_with_run_once(family, monkeypatch):
    prompts = [(*range(110, 150), *prompt) for prompt in PROMPTS]
    model, shapes = tiny(family), []
    copied = walk(monkeypatch, model, False, prompts=prompts)
    monkeypatch.setattr(decoding, "WORTH", 50)
    model.register_forward_pre_hook(
        lambda _, args, inputs: shapes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    forked = walk(monkeypatch, model, True, prompts=prompts)
    assert shapes[:3] == [(1, 40), (3, 17), (8, 1)]
    assert_alike(copied, forked)


TEXTS = ("open the dragon vault", "mend", "polish the brass lantern and sweep the stairs, please")
ROUNDED = 0.25
"""Nats. Rounding to bfloat16 was seen to make 0.16; padding that is read as text makes above 2."""
PAD = 3


@pytest.fixture(scope="module", params=CHAT_FAMILIES, ids=lambda family: family.name)
def folder(request, tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), request.param)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_padding_changes_no_log_probability_in_either_precision(folder, dtype):
    sampler = LocalPolicy(
        Weights(load_model(str(folder), dtype)),
        Chat(load_tokenizer(str(folder))),
        Sampling(1.0, max_completion_length=9),
    )
    requests_ = [Request((Message("user", text),), (f"{text}/0", f"{text}/1")) for text in TEXTS]
    completions = flat(sampler.sample(requests_))
    assert len({len(c.prompt_ids) for c in completions}) >= 2
    assert max(len(c.token_ids) for c in completions) >= 5
    model, batch = sampler.weights.model, batch_of(completions, PAD)
    real_BT = batch.mask_BT.bool()
    with torch.no_grad():
        together = logprobs(model, batch, 1.0)[real_BT]
        alone_ = torch.cat([logprobs(model, batch_of([c]), 1.0)[0] for c in completions])
        batch.seen_PL.fill_(1)
        padding_read = logprobs(model, batch, 1.0)[real_BT]
    for other in (alone_, torch.tensor([logp for c in completions for logp in c.logprobs])):
        if dtype == "float32":
            assert_close_sums(together, other)
        assert (together - other).abs().max() < ROUNDED
    assert (together - padding_read).abs().max() > 6 * ROUNDED, "the test could tell"


def test_a_model_is_loaded_in_the_dtype_of_its_setting_or_its_files(folder, monkeypatch):
    monkeypatch.setattr("sparring.players.loading.quicker_dtype", lambda: "bfloat16")
    narrow = folder / "narrow"
    load_model(str(folder), "bfloat16").save_pretrained(narrow)
    dtypes = [load_model(str(folder)).dtype, load_model(str(narrow)).dtype]
    assert dtypes == [torch.float32, torch.bfloat16]
    assert load_model(str(narrow), "float32").dtype == torch.float32


def biased(family, bias):
    """A model in bfloat16 whose keys have biases in a few slow channels, as Qwen2.5-7B's have."""
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 128}
    sizes = {**SMALL, **heads, "hidden_size": 256, "attention_bias": True, "vocab_size": 512}
    config = getattr(transformers, f"{family}Config")(**sizes, initializer_range=0.05)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
        model.lm_head.weight.mul_(2.0)
        for layer in model.model.layers:
            key, query = layer.self_attn.k_proj.bias, layer.self_attn.q_proj.bias
            query.copy_(torch.randn_like(query) * bias / 15)
            slow = torch.zeros(2, 2, 64)
            slow[:, :, 40:44] = bias * (torch.rand(2, 2, 4) - 0.5).sign()
            key.copy_(slow.flatten())
    places = model.model.rotary_emb.inv_freq.clone()
    model = model.to(torch.bfloat16)
    model.model.rotary_emb.inv_freq = places  # as transformers loads it
    return model


@pytest.mark.parametrize("family", ["Qwen2", "Llama"])
@pytest.mark.parametrize("bias", [30.0, 150.0])
def test_large_key_biases_leave_sampling_and_learning_one_policy_in_bfloat16(family, bias):
    """Scores rounded to bfloat16 were seen .36 nats apart."""
    model = biased(family, bias)
    rng = np.random.default_rng(0)
    prompts = [tuple(rng.integers(1, 512, 90).tolist()) for _ in range(2)]
    rows = [(prompt, tuple(rng.integers(1, 512, 12).tolist())) for prompt in prompts * 4]
    with torch.inference_mode():
        steps, sampled = decoding.begin(model, prompts, (0, 1) * 4, 0), []
        for t in range(12):
            token_B = torch.tensor([reply[t] for _, reply in rows])
            sampled.append(steps.logits_BV.float().log_softmax(-1)[range(8), token_B])
            steps.advance(token_B, torch.arange(8))
        batch = pad(rows, range(8), 0, "cpu")
        learned_BT = path_of(model).logprobs(model, batch, 1.0)
    assert (torch.stack(sampled, 1) - learned_BT).abs().mean() < 0.05
