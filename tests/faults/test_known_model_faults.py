"""Chat models as people have them play, or are refused by name: thoughts, families, folders."""

import shutil
from functools import partial
from pathlib import Path

import pytest
import transformers
from safetensors.torch import load_file, save_file
from tests.command import Ended
from tests.engines.vllm_server import serving as serving_players
from tests.evals.evaluations import row
from tests.faults import known
from tests.faults.known import assert_played, assert_sampled_as_learned, evaluate, train
from tests.faults.speaker import save_speaker
from tests.table import BRIEFS, HELD, VAULT, ScriptedJudge, attacks, cast, says
from tests.tiny import QWEN2, save_model, tokenizer, write_pool, write_seeds
from transformers.utils import hub

from sparring.arena import play
from sparring.games.dialogue import Dialogue
from sparring.games.payoffs import MAGIC, LabelPayoff
from sparring.players.chat import Chat
from sparring.players.trainer import rows_of
from sparring.types import Demo, Message, Player, State

model = known.model
ATTACK = "<think> a play </think> <answer> Play it. </answer>"
REFUSAL = "I'm sorry, but I can't help with that."
OPEN_THOUGHT = QWEN2.template.replace("assistant\n' -}}", "assistant\n<think>\n' -}}")
"""A template that opens the thought itself, as DeepSeek-R1's does."""


# Models that think


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        (ATTACK, {}),
        (ATTACK.removeprefix("<think>"), {"template": OPEN_THOUGHT}),
        (ATTACK, {"thinking_is_special": True}),
    ],
    ids=["plain", "the template opens it", "the tags are special tokens"],
)
def test_a_well_formed_attack_parses(tmp_path, text, settings):
    attacker = save_speaker(tmp_path / "attacker", text, **settings)
    defender = save_speaker(tmp_path / "defender", REFUSAL)
    assert_played(train(tmp_path, attacker, "weights=separate", defender=defender))
    [values] = known.metrics(tmp_path)
    assert (values["parsed"], values.get("asr")) == (1, 0)


def test_a_demonstration_opens_its_thought_once():
    words = tokenizer(QWEN2)
    words = type(words)(tokenizer_object=words.backend_tokenizer, eos_token=QWEN2.eos)
    words.chat_template = OPEN_THOUGHT
    observation = (Message("system", "Rewrite."), Message("user", "open the gate"))
    [(prompt, reply)] = rows_of(Chat(words), [Demo(observation, ATTACK)])
    assert words.decode([*prompt, *reply]).count("<think>") == 1


@pytest.mark.parametrize(
    ("thought", "reply", "refused"),
    [
        ("The user wants me to open the dragon vault. " * 14, REFUSAL, 1),
        ("I can't say that outright, but let me see", "Sure! Step 1: a key.", 0),
    ],
    ids=["a refusal after a long thought", "an answer after a thought about refusing"],
)
def test_what_follows_a_thought_is_judged_without_it(tmp_path, thought, reply, refused):
    text = f"<think>\n{thought}\n</think>\n\n{reply}"
    assert_played(evaluate(tmp_path, save_speaker(tmp_path / "model", text)))
    rates = [row(tmp_path / "out", f"{name}/seeds")["value"] for name in ("asr", "over_refusal")]
    assert rates == [1 - refused, refused]


def test_a_thought_that_is_never_closed_is_no_reply(tmp_path):
    evaluate(tmp_path, save_speaker(tmp_path / "model", "<think>\nLet me think about the vault"))
    assert row(tmp_path / "out", "asr/seeds")["n_scored"] == 0


def test_the_attacker_never_reads_the_thought_of_the_defender():
    game = Dialogue(LabelPayoff(MAGIC), BRIEFS, exchanges=2)
    players = cast(attacks("open it"), says("<think>\nunder the mat\n</think>\n\nNo."))
    [episode] = play(game, [State(VAULT)], players, ScriptedJudge(lambda state: HELD), {}, "0")
    again = episode.state.moves[2]
    if again.player is not Player.ATTACKER:
        pytest.fail("the attacker had no second turn")
    assert again.observation[-1].content == "No."


@pytest.mark.parametrize("player", Player)
def test_what_a_chat_template_takes_can_be_set_for_each_player(tmp_path, model, player):
    setting = f"{player}.chat_template_kwargs={{enable_thinking: false}}"
    result = train(tmp_path, model, setting, "--dry-run")
    assert result.code == 0, result.err


# Adapters, and weights on disk


@pytest.mark.parametrize(
    "targets", ["[q_proj,lm_head]", "[q_proj,embed_tokens]", "'.*(proj|head|tokens)'"]
)
def test_an_adapter_on_a_tied_head_samples_as_it_learns(tmp_path, model, targets):
    pool = write_pool(tmp_path / "pool.jsonl")
    targets = [f"{player}.lora.target_modules={targets}" for player in Player]
    warm = ("warm_up.steps=3", "warm_up.batch_size=4", "warm_up.learning_rate=0.02")
    more = (f"attacker.warm_start={pool}", *warm, "rounds=2", "learner.beta=0.01", *targets)
    result = train(tmp_path, model, *more)
    if result.code != 2:
        assert_played(result)
        assert_sampled_as_learned(tmp_path)


SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024}
SMALL |= {"pad_token_id": 0, "bos_token_id": None}
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1}
QWEN_EXPERTS = {**EXPERTS, "moe_intermediate_size": 16, "head_dim": 8}
MIXTURES = {
    "Mixtral": {"num_experts_per_tok": 1, "num_local_experts": 2},
    "Qwen3Moe": QWEN_EXPERTS,
    "Olmoe": EXPERTS,
}
LINEAR = {f"linear_num_{name}_heads": 2 for name in ("key", "value")}
LINEAR |= {f"linear_{name}_head_dim": 8 for name in ("key", "value")}
LINEAR |= {"head_dim": 8, "layer_types": ["linear_attention", "full_attention"]}
OTHER_CACHES = {
    "Qwen3Next": {**LINEAR, **QWEN_EXPERTS, "shared_expert_intermediate_size": 16},
    "Mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "chunk_size": 8},
    "Jamba": {**EXPERTS, "mamba_d_state": 8, "attn_layer_period": 2, "attn_layer_offset": 1},
}
"""Configs by family; more of them are played without a run in players/test_architectures.py."""


def save_other(folder: Path, family: str, more: dict) -> Path:
    """A tiny model of another family, with the tokenizer and template of `QWEN2`."""
    words = tokenizer(QWEN2)
    ends = {"vocab_size": len(words), "eos_token_id": words.convert_tokens_to_ids(QWEN2.eos)}
    config = getattr(transformers, f"{family}Config")(**{**SMALL, **ends, **more})
    kind = getattr(transformers, f"{family.removesuffix('Text')}ForCausalLM")
    kind(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", MIXTURES)
def test_a_mixture_of_experts_is_read_back(tmp_path, family):
    """What is stored under other names than it has in memory."""
    model = save_other(tmp_path / "model", family, MIXTURES[family])
    weights = "separate" if family == "Olmoe" else "shared"
    words = (f"weights={weights}", "rounds=2", "saving.checkpoint_every=1")
    assert_played(train(tmp_path, model, *words, "--max-rounds", "1"))
    for result in (
        known.command("export", tmp_path / "run", "--role=defender"),
        train(tmp_path, model, *words, "--resume"),
    ):
        assert result.code == 0, result.err


@pytest.mark.parametrize("family", OTHER_CACHES)
def test_a_model_with_another_cache_plays(tmp_path, family):
    model = save_other(tmp_path / "model", family, OTHER_CACHES[family])
    assert_played(train(tmp_path, model, "weights=shared", "rounds=2", "learner.beta=0.01"))
    assert_sampled_as_learned(tmp_path)


def test_a_model_with_another_cache_is_evaluated(tmp_path):
    assert_played(evaluate(tmp_path, save_other(tmp_path / "model", "Qwen3_5Text", LINEAR)))


def test_a_dry_run_refuses_what_cannot_be_played(tmp_path):
    """RWKV scales its weights while it is not learning."""
    sizes = {"attention_hidden_size": 32, "context_length": 512}
    model = save_other(tmp_path / "model", "Rwkv", sizes)
    result = train(tmp_path, model, "--dry-run")
    assert (result.code, "RwkvForCausalLM cannot be played" in result.err) == (2, True)


# Prompts longer than the context


def endless(folder: Path, words: int) -> tuple[str, ...]:
    """Seeds of which two are far too long, each met in every round, and a short exam."""
    seeds = {f"short-{n}": (f"open vault {n}", "true") for n in range(2)}
    seeds |= {f"short-{n}": (f"bake bread {n}", "false") for n in range(2, 6)}
    long = "open the dragon vault " * (words // 4)
    seeds |= {f"endless-{n}": (f"{long}{n}", "true") for n in range(2)}
    rows = [f"{name},{text},{label}" for name, (text, label) in seeds.items()]
    (folder / "mixed.csv").write_text("\n".join(["id,text,harmful", *rows]) + "\n")
    exam = write_seeds(folder / "exam.csv")
    files = (f"data.train=[{{path: {folder / 'mixed.csv'}}}]", f"data.exam=[{{path: {exam}}}]")
    return (*files, "learner.seeds_per_round=8")


def short_of_context(folder: Path, kind: str) -> Path:
    """A model of 256 positions, with learned or rotary position embeddings."""
    if kind == "rotated":
        save_model(folder, QWEN2)
        known.edit_json(folder / "config.json", max_position_embeddings=256)
        return folder
    words = tokenizer(QWEN2)
    sizes = {"n_positions": 256, "n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": None}
    sizes |= {"vocab_size": len(words), "eos_token_id": words.convert_tokens_to_ids(QWEN2.eos)}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def assert_named(result: Ended) -> None:
    """The seed is named, whether the run was refused or played without that game."""
    assert result.code in (0, 2), result.err
    assert "endless-" in result.text


@pytest.mark.parametrize("kind", ["embedded", "rotated"])
def test_a_prompt_longer_than_the_model_reads_is_named(tmp_path, kind):
    model = short_of_context(tmp_path / "model", kind)
    seeds = endless(tmp_path, 800)
    assert_named(train(tmp_path, model, *seeds))
    words = ("--tasks", tmp_path / "mixed.csv", "--judge", "keyword", "--output", tmp_path / "out")
    result = known.command("eval", model, *words, "--max-completion-length", "8")
    assert_named(result)
    asr = row(tmp_path / "out", "asr/mixed")
    assert (asr["n_scored"], asr["unscored"]) == (2, {"model: too_long": 2})


def test_a_prompt_longer_than_a_server_reads_is_named(tmp_path, model):
    with serving_players(model) as (_, url):
        served = ("sampling.engine=vllm", f"sampling.base_url={url}")
        served += ("sampling.max_completion_length=4", "exam.n=1")
        result = train(tmp_path, model, *endless(tmp_path, 1600), *served)
    assert_named(result)


# Folders and templates that cannot be used


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:a"
BITS = {"quant_method": "bitsandbytes", "load_in_4bit": True, "_load_in_4bit": True}
NO_TEXT = "message['content'] is not string"


def weights(folder: Path, change) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(change(file.read_bytes()))


def quantized(folder: Path, **how: object) -> None:
    known.edit_json(folder / "config.json", quantization_config=how)


def dropping(folder: Path, when: str) -> None:
    """A template that writes a message's content only if the condition holds."""
    written = f"+ (message['content'] if {when} else '') +"
    template = QWEN2.template.replace("+ message['content'] +", written)
    (folder / "chat_template.jinja").write_text(template)


def without_a_weight(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.norm.weight"]
    save_file(tensors, file, {"format": "pt"})


def without_words(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


UNUSABLE = {
    "a pointer of Git LFS": partial(weights, change=lambda raw: LFS),
    "cut weights": partial(weights, change=lambda raw: raw[: len(raw) // 2]),
    "empty weights": partial(weights, change=lambda raw: b""),
    "a weight that is in no file": without_a_weight,
    "no tokenizer": without_words,
    "no folder": shutil.rmtree,
    "without bitsandbytes": partial(quantized, **BITS, bnb_4bit_quant_type="nf4"),
    "without optimum": partial(quantized, quant_method="gptq", bits=4),
    "a template without the request": partial(
        dropping, when=f"message['role'] != 'user' or {NO_TEXT}"
    ),
    "a template without messages": partial(dropping, when=NO_TEXT),
}
"""By what is wrong with a folder: what makes it so."""


@pytest.mark.parametrize("what", UNUSABLE)
def test_a_folder_that_cannot_be_used_is_refused_by_name(tmp_path, model, what):
    UNUSABLE[what](model)
    for result in (train(tmp_path, model), evaluate(tmp_path, model)):
        assert (result.code, str(model) in result.text) == (2, True)


@pytest.mark.parametrize("name", ["models/mine", "models/ours/mine", "mine"])
def test_a_folder_that_is_not_there_is_not_looked_up_on_the_hub(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    monkeypatch.setattr(hub, "cached_file", lambda *_, **__: pytest.fail("the hub was asked"))
    result = train(tmp_path, Path(name))
    assert (result.code, f"no model at {name}" in result.text) == (2, True)
