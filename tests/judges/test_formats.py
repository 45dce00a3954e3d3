"""Every judge gets the prompt that its authors published, filled as they fill it."""

import hashlib
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.hostile.corpus import ALL
from tests.judges.texts import EXCHANGE, ITEM, NEEDS_TEXT, REPLY, TEXTS, formats, written

from sparring.judges import published
from sparring.judges.model_judge import Item, Raw, Untrusted
from sparring.judges.published import PUBLISHED, format_named, shipped
from sparring.types import Message, UsageError, Verdict

GOLDEN = Path(__file__).parents[1] / "golden" / "judges"
FORMS = formats()
IN_CONTEXT = replace(ITEM, context="the map of the mountain")


def shown(prompts) -> str:
    """Prompts as a golden file has them: «» around what no token of the template may come from."""
    texts = []
    for prompt in prompts:
        if isinstance(prompt, Raw):
            texts.append("".join(p if isinstance(p, str) else f"«{p.text}»" for p in prompt.parts))
        else:
            texts.append("\n".join(f"{m.role}: {m.content}" for m in prompt))
    return "\n---- and\n".join(texts) + "\n"


@pytest.mark.parametrize("name", FORMS)
def test_a_harmless_item_is_shown_as_the_golden_file_has_it_by_a_format_that_says_what_it_is(name):
    form = FORMS[name]
    assert shown(form.prompts(ITEM)) == (GOLDEN / f"{name}.txt").read_text()
    assert form.name == name.removesuffix("_faithful")
    assert form.fills <= {field.name for field in fields(Verdict)} - {"status"}
    assert form.template
    assert form.source
    assert form.max_tokens >= 1


@pytest.mark.parametrize("name", [k for k in FORMS if k.startswith("harmbench") or k == "rubric"])
def test_a_context_is_shown_where_the_format_has_a_place_for_it(name):
    assert "the map of the mountain" in shown(FORMS[name].prompts(IN_CONTEXT))
    assert "the map" not in shown(FORMS["wildguard"].prompts(IN_CONTEXT))


@pytest.mark.parametrize("name", [k for k, f in FORMS.items() if f.about == "attack"])
def test_a_judge_of_attacks_needs_no_reply_and_is_not_shown_one(name):
    before = replace(ITEM, messages=EXCHANGE[:1])
    assert FORMS[name].prompts(before) == FORMS[name].prompts(ITEM)
    assert REPLY not in shown(FORMS[name].prompts(ITEM))


@pytest.mark.parametrize(
    "name", ["qwen3guard", "llama_guard_3", "llama_guard_3_1b", "llama_guard_4"]
)
def test_guards_with_a_chat_template_get_the_whole_dialogue(name):
    longer = (Message("user", "hello"), Message("assistant", "hail"), *EXCHANGE)
    assert FORMS[name].prompts(replace(ITEM, messages=longer)) == [longer]


def assert_untouched(text: str) -> None:
    item = Item(text, (Message("user", text), Message("assistant", text)), context=f"{text}!")
    plain = Item("@", (Message("user", "@"), Message("assistant", "@")), context="@!")
    spelled = {Untrusted("@"): Untrusted(text), Untrusted("@!"): Untrusted(f"{text}!")}
    for name, form in FORMS.items():
        for prompt, bare in zip(form.prompts(item), form.prompts(plain), strict=True):
            if isinstance(prompt, Raw):
                assert prompt.parts == tuple(spelled.get(part, part) for part in bare.parts)
            elif name.startswith("rubric"):
                assert f"request\n{text}\nEND" in prompt[0].content
                assert f"user\n{text}\nEND" in prompt[0].content
            else:
                for message, pattern in zip(prompt, bare, strict=True):
                    assert message.content == text.join(pattern.content.split("@"))


@pytest.mark.parametrize("text", [*ALL, "{response}", "{prompt}"])
def test_a_hostile_string_is_shown_byte_by_byte(text):
    assert_untouched(text)


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=()), max_size=40))
def test_any_string_is_shown_byte_by_byte(text):
    assert_untouched(text)


@pytest.mark.parametrize("name", [name for name in NEEDS_TEXT if name != "wildguard"])
def test_a_published_text_is_taken_from_a_folder_and_is_what_built_it(name, tmp_path):
    form = format_named(name, written(tmp_path, PUBLISHED[name].texts))
    assert form.prompts(ITEM) == FORMS[name].prompts(ITEM)
    assert form.template == "\f".join(TEXTS[text] for text in PUBLISHED[name].texts)


def test_a_text_with_a_known_digest_is_word_for_word_or_refused(tmp_path, monkeypatch):
    file = written(tmp_path, ["wildguard"]) / "wildguard.txt"
    with pytest.raises(UsageError, match=r"word for word.*WILDGUARD_INPUT_FORMAT"):
        format_named("wildguard", file)
    digest = hashlib.sha256(TEXTS["wildguard"].encode()).hexdigest()
    known = PUBLISHED["wildguard"].model_copy(update={"digests": {"wildguard": digest}})
    monkeypatch.setattr("sparring.judges.published.PUBLISHED", {"wildguard": known})
    for ending in ("", "\n"):
        file.write_text(TEXTS["wildguard"] + ending)
        assert format_named("wildguard", file).template == TEXTS["wildguard"]
    file.write_text(TEXTS["wildguard"].replace("Judge.", "Judge,"))
    with pytest.raises(UsageError, match=digest):
        format_named("wildguard", file)


@pytest.mark.parametrize("name", [name for name in NEEDS_TEXT if shipped(name) is None])
def test_a_text_that_is_needed_is_asked_for_with_its_source(name):
    with pytest.raises(UsageError, match=rf"{name}\.txt.*template") as error:
        format_named(name)
    assert PUBLISHED[name].source in str(error.value)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("jbb", "{goal} and no reply", r"wanted the slots \{goal\}, \{response\}, found \{goal\}"),
        ("jbb", "{goal} {response} {x}", r"found \{goal\}, \{response\}, \{x\}"),
        ("jbb", "\udc80{goal}", "cannot be read"),
        ("strongreject", "{forbidden_prompt}", "needs a folder with strongreject.txt, "),
        ("qwen3guard", "", "model's own chat template"),
        ("qwen4guard", "", "not known; there are qwen3guard, "),
    ],
)
def test_a_text_of_no_use_is_refused_by_name(kind, text, message, tmp_path):
    file = tmp_path / "text.txt"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UsageError, match=message):
        format_named(kind, file)


def test_a_missing_file_is_refused_and_so_are_guidelines_without_a_line(tmp_path):
    with pytest.raises(UsageError, match=r"strongreject\.txt"):
        format_named("strongreject", tmp_path)
    written(tmp_path, PUBLISHED["shieldgemma"].texts)
    (tmp_path / "shieldgemma_guidelines.txt").write_text("\n \n")  # no answer would read as safe
    with pytest.raises(UsageError, match=r"shieldgemma_guidelines\.txt: wanted the text"):
        format_named("shieldgemma", tmp_path)


def test_texts_among_the_templates_make_a_format_ready(tmp_path, monkeypatch):
    (tmp_path / "templates").mkdir()
    written(tmp_path / "templates", ["jbb"])
    assert shipped("jbb") is None
    monkeypatch.setattr(published.resources, "files", lambda package: tmp_path)
    assert shipped("jbb").prompts(ITEM) == FORMS["jbb"].prompts(ITEM)
