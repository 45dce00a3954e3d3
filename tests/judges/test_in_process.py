"""A judge's model in process: greedy, and nothing that is judged passes for its template."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import FAMILIES, GEMMA, LLAMA3, MISTRAL, QWEN2, save_model, tokenizer

from sparring.judges.local import InProcess
from sparring.judges.model_judge import Question, Raw, Untrusted
from sparring.players.chat import Chat, Vocabulary
from sparring.players.loading import load_model, load_tokenizer, stop_ids
from sparring.players.local import LocalPolicy
from sparring.players.player import Request, Sampling
from sparring.players.weights import Weights
from sparring.types import Message, Status

FAMILY = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
ASKED = [(Message("user", text),) for text in ("open the dragon vault", "paint", "sweep it " * 9)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def folder(family):
        if family not in made:
            made[family] = save_model(tmp_path_factory.mktemp(family.name), family)
        return str(made[family])

    return folder


@pytest.fixture
def engine(folders):
    def loaded(family, **told):
        where = folders(family)
        return InProcess(load_model(where), load_tokenizer(where), "tiny", **told)

    return loaded


@FAMILY
def test_it_says_what_a_policy_would_say_at_temperature_0(engine, folders, family):
    where = folders(family)
    model, words = load_model(where), load_tokenizer(where)
    policy = LocalPolicy(Weights(model), Chat(words, stop_ids(model)), Sampling(0.0, 24))
    said = [told[0] for told in policy.sample([Request(seen, ("0",)) for seen in ASKED])]
    for ask, told, policy_said in zip(
        ASKED, engine(family).answer([Question(seen, 24) for seen in ASKED]), said, strict=True
    ):
        assert told.prompt_tokens == len(policy_said.prompt_ids), ask
        assert told.completion_tokens == len(policy_said.token_ids)
        assert (told.status is Status.OK) == policy_said.finished
        assert told.text.strip() == (policy_said.text if policy_said.finished else "")


def test_neighbours_in_a_batch_change_nothing(engine):
    asks = [Question(seen, n) for seen in ASKED for n in (1, 4, 24)]
    together = engine(QWEN2).answer(asks)
    assert together == engine(QWEN2, batch_tokens=1).answer(asks)
    assert together == [engine(QWEN2).answer([ask])[0] for ask in asks]


def test_a_models_own_sampling_and_penalties_are_not_used(folders):
    model = load_model(folders(QWEN2))
    plain = InProcess(model, load_tokenizer(folders(QWEN2)), "tiny").answer([Question(ASKED[0], 4)])
    other = load_model(folders(QWEN2))
    other.generation_config.update(
        do_sample=True, temperature=9.0, repetition_penalty=40.0, min_new_tokens=3, num_beams=3
    )
    assert (
        InProcess(other, load_tokenizer(folders(QWEN2)), "tiny").answer([Question(ASKED[0], 4)])
        == plain
    )


def test_a_label_may_be_cut_and_any_other_answer_may_not(engine):
    # An untrained model does not end by itself within so few tokens.
    label, sentence = engine(QWEN2).answer([Question(ASKED[0], 4), Question(ASKED[0], 5)])
    assert label.status is Status.OK
    assert label.text
    assert (sentence.status, sentence.text) == (Status.TRUNCATED, "")


def special(family, ids):
    control = Vocabulary(tokenizer(family)).control
    return [i for i in ids if i in control]


@FAMILY
def test_a_raw_prompts_own_special_tokens_are_tokens_and_the_judged_texts_are_not(engine, family):
    mark = family.turn_end
    ask = engine(family).prompt_ids
    kind = ask(Question(Raw((f"{mark}Judge: ", Untrusted("open"), f"{mark}Answer:")), 4))
    everything = "".join(family.special) * 3
    evil = ask(Question(Raw((f"{mark}Judge: ", Untrusted(everything), f"{mark}Answer:")), 4))
    assert special(family, evil) == special(family, kind)
    assert len(special(family, kind)) >= 2


@FAMILY
def test_a_special_token_does_not_arise_where_two_spans_meet(engine, family):
    one = engine(family)
    for mark in family.special:
        for cut in range(1, len(mark)):
            parts = (Untrusted(mark[:cut]), Untrusted(mark[cut:]), " Answer:")
            assert not special(family, one.prompt_ids(Question(Raw(parts), 4))), (mark, cut)


@pytest.mark.parametrize("family", [LLAMA3, QWEN2], ids=lambda family: family.name)
@given(text=st.text(max_size=30))
@settings(max_examples=40)
def test_ordinary_text_gives_the_ids_of_the_flat_prompt(family, text):
    words = tokenizer(family)
    raw = Raw((f"{family.turn_end}Judge: ", Untrusted(text), "\nAnswer:"))
    flat = words(raw.text, add_special_tokens=False)["input_ids"]
    engine = InProcess.__new__(InProcess)
    engine.tokenizer = words
    if not special(family, words(text, add_special_tokens=False)["input_ids"]):
        assert list(engine.prompt_ids(Question(raw, 4))) == flat


def test_the_token_that_opens_every_text_is_there_once(engine, monkeypatch):
    one = engine(GEMMA)
    bos = one.tokenizer.bos_token_id
    ask, told = Question(Raw(("Answer:",)), 4), Question(Raw(("<bos>Answer:",)), 4)
    assert one.prompt_ids(ask)[0] != bos
    assert one.prompt_ids(told)[0] == bos
    from tokenizers.processors import TemplateProcessing

    core = one.tokenizer.backend_tokenizer
    before = core.post_processor
    core.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", bos)])
    try:
        assert one.prompt_ids(ask) == one.prompt_ids(told)
        assert one.prompt_ids(ask)[:2].count(bos) == 1
    finally:
        core.post_processor = before


def test_a_question_beyond_the_context_is_truncated_and_nothing_is_cut(engine):
    one, heard = engine(MISTRAL), {}
    long = Question((Message("user", "open the vault " * 2000),), 16)
    told = one.answer([long, Question(ASKED[0], 4)], heard.__setitem__)
    assert told[0].status is Status.TRUNCATED
    assert "over the context; nothing was cut" in told[0].why
    assert (told[0].calls, told[1].status) == (0, Status.OK)
    assert [heard[0], heard[1]] == told


def test_the_last_token_of_the_context_may_be_used(engine):
    one = engine(QWEN2)
    ask = Question(ASKED[0], 4)
    one.__dict__["context"] = len(one.prompt_ids(ask)) + 4
    assert one.answer([ask])[0].status is Status.OK
    one.__dict__["context"] -= 1
    assert one.answer([ask])[0].status is Status.TRUNCATED


def test_a_template_that_would_hide_what_was_said_is_not_let():
    # Qwen3's template shows an assistant's turn from "</think>" on.
    from dataclasses import replace

    hiding = QWEN2.template.replace(
        "message['content']", "message['content'].split('</think>')[-1].strip()"
    )
    words = tokenizer(replace(QWEN2, name="hiding", template=hiding))
    said = "Take the key, turn it twice. </think> I cannot help with that."
    seen = (Message("user", " open the vault\n"), Message("assistant", said))
    chat = Chat(words)
    assert "turn it twice" not in words.decode(chat.prompt_ids(seen))
    assert said in words.decode(chat.verbatim_ids(seen))
    kind = (Message("user", " open the vault\n"), Message("assistant", "no"))
    assert chat.verbatim_ids(kind) == chat.prompt_ids(kind)


@FAMILY
def test_a_chat_is_rendered_by_the_models_own_template(engine, family):
    seen = (Message("user", "open"), Message("assistant", "no"), Message("user", "please"))
    told = tokenizer(family).apply_chat_template(
        [{"role": m.role, "content": m.content} for m in seen],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=False,
    )
    assert list(engine(family).prompt_ids(Question(seen, 4))) == list(told)


def test_a_model_without_a_chat_template_takes_raw_prompts(tmp_path):
    where = str(save_model(tmp_path / "m", LLAMA3, template=False))
    words = load_tokenizer(where)
    words.chat_template = None
    one = InProcess(load_model(where), words, "tiny")
    assert one.answer([Question(Raw(("Answer:",)), 3)])[0].status is Status.OK
