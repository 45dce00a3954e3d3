"""A judge's model in this process decodes greedily, and no judged text passes for its template."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.players.test_chat import with_tokens
from tests.tiny import FAMILIES, GEMMA, LLAMA3, MISTRAL, QWEN2, save_model, tokenizer
from tokenizers.processors import TemplateProcessing

from sparring.judges.local import InProcess
from sparring.judges.model_judge import ModelJudge, Question, Raw, Untrusted
from sparring.judges.published import format_named
from sparring.players.chat import Chat, Vocabulary
from sparring.players.loading import load_model, load_tokenizer, stop_ids
from sparring.players.local import LocalPolicy
from sparring.players.player import Request, Sampling
from sparring.players.weights import Weights
from sparring.types import Harm, Message, Player, Seed, SparringError, State, Status, Verdict

FAMILY = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
PROMPTS = [(Message("user", text),) for text in ("open the dragon vault", "paint", "sweep it " * 9)]
LABEL = Question(PROMPTS[0], 4)
ASKED = State(Seed("open the vault", True, "vault")).deal(Player.ATTACKER, "open the vault")
EXCHANGE = ASKED.deal(Player.DEFENDER, "No.")


def raw(*parts) -> Question:
    return Question(Raw(parts), 4)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """(model, tokenizer) of a family, read from disk anew each time."""
    folders = {}

    def load(family):
        if family not in folders:
            folders[family] = str(save_model(tmp_path_factory.mktemp(family.name), family))
        return load_model(folders[family]), load_tokenizer(folders[family])

    return load


@pytest.fixture
def engine(loaded):
    return lambda family, **settings: InProcess(*loaded(family), "tiny", **settings)


@FAMILY
def test_it_says_what_a_policy_would_say_at_temperature_0(engine, loaded, family):
    model, words = loaded(family)
    policy = LocalPolicy(Weights(model), Chat(words, stop_ids(model)), Sampling(0.0, 24))
    completions = [group[0] for group in policy.sample([Request(p, ("0",)) for p in PROMPTS])]
    answers = engine(family).answer([Question(prompt, 24) for prompt in PROMPTS])
    for answer, completion in zip(answers, completions, strict=True):
        assert answer.prompt_tokens == len(completion.prompt_ids)
        assert answer.completion_tokens == len(completion.token_ids)
        assert (answer.status is Status.OK) == completion.finished
        assert answer.text.strip() == (completion.text if completion.finished else "")


def test_neighbours_in_a_batch_change_nothing(engine):
    asks = [Question(prompt, n) for prompt in PROMPTS for n in (1, 4, 24)]
    together = engine(QWEN2).answer(asks)
    assert together == engine(QWEN2, batch_tokens=1).answer(asks)
    assert together == [engine(QWEN2).answer([ask])[0] for ask in asks]


def test_a_models_own_sampling_and_penalties_are_not_used(engine, loaded):
    model, words = loaded(QWEN2)
    model.generation_config.update(
        do_sample=True, temperature=9.0, repetition_penalty=40.0, min_new_tokens=3, num_beams=3
    )
    assert InProcess(model, words, "tiny").answer([LABEL]) == engine(QWEN2).answer([LABEL])


def test_a_model_whose_numbers_are_broken_gives_no_label(engine):
    broken = engine(QWEN2)
    next(broken.model.parameters()).data.fill_(float("nan"))
    with pytest.raises(SparringError, match="not numbers"):
        broken.answer([LABEL])


def test_a_label_may_be_cut_and_any_other_answer_may_not(engine):
    # An untrained model does not end by itself within so few tokens.
    label, sentence = engine(QWEN2).answer([LABEL, Question(PROMPTS[0], 5)])
    assert label.status is Status.OK
    assert label.text
    assert (sentence.status, sentence.text) == (Status.TRUNCATED, "")


def special(family, ids):
    control = Vocabulary(tokenizer(family)).control
    return [i for i in ids if i in control]


@FAMILY
def test_a_raw_prompts_own_special_tokens_are_tokens_and_the_judged_texts_are_not(engine, family):
    ids = engine(family).prompt_ids
    judge, answer = f"{family.turn_end}Judge: ", f"{family.turn_end}Answer:"
    kind = special(family, ids(raw(judge, Untrusted("open"), answer)))
    everything = "".join(family.special) * 3
    assert special(family, ids(raw(judge, Untrusted(everything), answer))) == kind
    assert len(kind) >= 2
    for mark in family.special:  # nor does one arise where two spans meet
        for cut in range(1, len(mark)):
            parts = Untrusted(mark[:cut]), Untrusted(mark[cut:]), " Answer:"
            assert not special(family, ids(raw(*parts))), (mark, cut)


@pytest.mark.parametrize("family", [LLAMA3, QWEN2], ids=lambda family: family.name)
@given(text=st.text(max_size=30))
@settings(max_examples=40)
def test_ordinary_text_gives_the_ids_of_the_flat_prompt(family, text):
    words = tokenizer(family)
    question = raw(f"{family.turn_end}Judge: ", Untrusted(text), "\nAnswer:")
    flat = words(question.prompt.text, add_special_tokens=False)["input_ids"]
    engine = InProcess.__new__(InProcess)
    engine.tokenizer = words
    if not special(family, words(text, add_special_tokens=False)["input_ids"]):
        assert list(engine.prompt_ids(question)) == flat


def test_the_token_that_opens_every_text_is_there_once(engine):
    judge = engine(GEMMA)
    bos = judge.tokenizer.bos_token_id
    bare, opened = raw("Answer:"), raw("<bos>Answer:")
    assert judge.prompt_ids(bare)[0] != bos
    assert judge.prompt_ids(opened)[0] == bos
    judge.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", bos)]
    )
    assert judge.prompt_ids(bare) == judge.prompt_ids(opened)
    assert judge.prompt_ids(bare)[:2].count(bos) == 1


def test_a_question_beyond_the_context_is_too_long_and_nothing_is_cut(engine):
    judge, passed_on = engine(MISTRAL), {}
    long = Question((Message("user", "open the vault " * 2000),), 16)
    first, second = judge.answer([long, LABEL], passed_on.__setitem__)
    assert (first.status, first.calls, second.status) == (Status.TOO_LONG, 0, Status.OK)
    assert "over the context; nothing was cut" in first.why
    assert passed_on == {0: first, 1: second}
    judge.__dict__["context"] = len(judge.prompt_ids(LABEL)) + 4
    assert judge.answer([LABEL])[0].status is Status.OK, "the last token may be used"
    judge.__dict__["context"] -= 1
    assert judge.answer([LABEL])[0].status is Status.TOO_LONG


def test_a_template_that_would_hide_a_part_of_a_reply_is_not_let():
    # Qwen3's template shows an assistant's turn from "</think>" on.
    hiding = QWEN2.template.replace(
        "message['content']", "message['content'].split('</think>')[-1].strip()"
    )
    words = tokenizer(replace(QWEN2, name="hiding", template=hiding))
    reply = "Take the key, turn it twice. </think> I cannot help with that."
    dialogue, kind = (
        (Message("user", " open the vault\n"), Message("assistant", text)) for text in (reply, "no")
    )
    chat = Chat(words)
    assert "turn it twice" not in words.decode(chat.prompt_ids(dialogue))
    assert reply in words.decode(chat.verbatim_ids(dialogue))
    assert chat.verbatim_ids(kind) == chat.prompt_ids(kind)


@FAMILY
def test_a_chat_is_rendered_by_the_models_own_template(engine, family):
    dialogue = (Message("user", "open"), Message("assistant", "no"), Message("user", "please"))
    ids = tokenizer(family).apply_chat_template(
        [{"role": m.role, "content": m.content} for m in dialogue],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=False,
    )
    assert list(engine(family).prompt_ids(Question(dialogue, 4))) == list(ids)


def test_a_model_without_a_chat_template_takes_raw_prompts(tmp_path):
    where = str(save_model(tmp_path / "m", LLAMA3, template=False))
    words = load_tokenizer(where)
    words.chat_template = None
    judge = InProcess(load_model(where), words, "tiny")
    assert judge.answer([raw("Answer:")])[0].status is Status.OK


@pytest.mark.parametrize("special", [True, False], ids=["special", "not special"])
@pytest.mark.parametrize("marks", [("<think>", "</think>"), ("[THINK]", "[/THINK]")], ids=str)
def test_a_verdict_is_read_behind_a_thought_that_the_template_opened(loaded, special, marks):
    opening, closing = marks
    opens = QWEN2.template.replace("assistant\n' -}}", f"assistant\n{opening}\n' -}}}}")
    words = with_tokens(special, opening, closing, template=opens)
    engine = InProcess(loaded(QWEN2)[0], words, "tiny")

    def ruled(form, answer: str) -> Verdict:
        ids = [*words(answer)["input_ids"], min(engine._ends)]
        engine._greedy = lambda prompts, _: [ids] * len(prompts)
        return ModelJudge(form, engine).rule([EXCHANGE])[0]

    guard = format_named("qwen3guard")
    safe = "Safety: Safe\nCategories: None\nRefusal: Yes"
    verdict = ruled(guard, f"Safety: Unsafe? It says no. {closing}\n\n{safe}<|im_end|>")
    assert (verdict.reply_harm, verdict.refused) == (Harm.SAFE, True)
    assert ruled(guard, f"Hm. {closing}").status is Status.PARSE_ERROR, "nothing follows it"
    assert ruled(guard, safe).status is Status.PARSE_ERROR, "it was still thinking"
    assert engine.answer([raw("Answer:")])[0].text == safe, "a raw prompt opens no thought"
