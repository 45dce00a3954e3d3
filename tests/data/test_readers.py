"""Every published schema is read; whatever is wrong with a file is named with its line."""

import json
from pathlib import Path

import pytest
from tests.data.files import written

from sparring.data.readers import read, read_pool
from sparring.data.schemas import SCHEMAS
from sparring.types import Message, UsageError

VAULT, LANTERN = "open the dragon vault", "polish the brass lantern"


def columns(schema: str) -> list[str]:
    return sorted(next(s.columns for s in SCHEMAS if s.name == schema))


def file(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(path: Path, read=read) -> str:
    with pytest.raises(UsageError) as error:
        read(path)
    return str(error.value)


def test_the_id_of_a_row_without_one_depends_on_its_text_alone(tmp_path):
    one = read(file(tmp_path, "a.csv", f"text,harmful\n{VAULT},true\n")).seeds
    other = read(file(tmp_path, "b.csv", f"text,harmful\n{LANTERN},false\n{VAULT},false\n")).seeds
    assert one[0].id == other[1].id != other[0].id


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_a_byte_order_mark_line_ends_quotes_and_blank_lines_change_nothing(tmp_path, bom, end):
    lines = [f"{bom}text,harmful", '"the vault, ""open"" it",true', "", f"{LANTERN},false", "", ""]
    seeds = read(file(tmp_path, "a.csv", end.join(lines))).seeds
    assert [seed.text for seed in seeds] == ['the vault, "open" it', LANTERN]


@pytest.mark.parametrize("inside", ["\n", "\r\n", "\u2028", "\x85", "\x0c"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.json", "a.jsonl"])
def test_no_separator_inside_a_text_splits_its_record(tmp_path, name, inside):
    text = f"open{inside}the vault"
    rows = [{"text": text, "harmful": "true"}, {"text": LANTERN, "harmful": "false"}]
    assert [seed.text for seed in read(written(tmp_path / name, rows)).seeds] == [text, LANTERN]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.json", "a.jsonl"])
def test_prompts_that_look_like_missing_values_survive(tmp_path, name):
    texts = ["None", "NA", "null", "nan", "", "N/A", "true", "0"]
    rows = [{"text": text, "harmful": "true"} for text in texts if text]
    assert [s.text for s in read(written(tmp_path / name, rows)).seeds] == [t for t in texts if t]


def test_half_a_surrogate_pair_is_kept_as_it_stands(tmp_path):
    rows = [{"text": f"a{half}", "harmful": True} for half in ("\ud800", "\udfff", "\ufffd")]
    path = file(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    found = read(path).seeds
    assert [seed.text for seed in found] == [row["text"] for row in rows]
    assert len({seed.id for seed in found}) == 3


@pytest.mark.parametrize("missing", [None, float("nan"), 7, ["open"], {"open": 1}, True])
def test_a_missing_or_other_value_never_becomes_a_prompt(tmp_path, missing):
    rows = [{"text": VAULT, "harmful": True}, {"text": missing, "harmful": True}]
    path = file(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert f"{path}:2: text must be text" in refused(path)


def test_a_null_id_or_category_is_none(tmp_path):
    told = {"id": None, "text": VAULT, "harmful": True, "category": None}
    (seed,) = read(file(tmp_path, "a.json", json.dumps([told]))).seeds
    assert "None" not in (seed.id, seed.category)


BROKEN = [
    ("a.csv", "text,harmful\nopen,true\nvault\n", ":3: 1 cells where the header has 2"),
    ("a.csv", "text,harmful\nopen,true,more\n", ":2: 3 cells where the header has 2"),
    ("a.csv", 'text,harmful\n"open\nthe\nvault",true\n\nvault\n', ":6: 1 cells"),
    ("a.csv", 'text,harmful\nopen,true\n"vault,true\nx,true\n', ":3: unexpected end of data"),
    ("a.csv", b"text,harmful\nopen,true\nvault \xff,true\n", ":3: not UTF-8"),
    ("a.csv", "text,text,harmful\na,b,true\n", ":1: a column is named twice"),
    ("a.csv", "text,harmful\nopen,true\n \t ,true\n", ":3: the request is empty"),
    ("a.csv", "text,harmful\nopen,perhaps\n", ":2: harmful must be true or false, got 'perhaps'"),
    ("a.csv", "", ": empty file"),
    ("a.csv", "text,harmful\n", ": no rows"),
    ("a.tsv", "text,harmful\nopen,true\n", ": unknown columns: text,harmful"),
    ("a.jsonl", '{"text": "a", "harmful": true}\n{"text": \n', ":2: not JSON"),
    ("a.jsonl", '{"text": "a", "harmful": true}\n\n{"text": "b"}\n', ":3: not the fields"),
    ("a.jsonl", b'{"text": "a\xff", "harmful": true}\n', ":1: not JSON in UTF-8"),
    ("a.jsonl", "[1]\n", ":1: wanted an object"),
    ("a.jsonl", '{"text": ' + "1" * 5000 + "}\n", ":1: not JSON"),
    ("a.jsonl", "[" * 100_000 + "\n", ":1: not JSON"),
    ("a.jsonl", "\n\n", ": no rows"),
    ("a.json", "7", ": wanted a list of records"),
    ("a.json", "[1]", ": record 1: wanted an object"),
    ("a.json", "[]", ": no rows"),
    ("a.json", "", ": not JSON"),
    ("a.parquet", "PAR1", ": not Parquet"),
    ("a.txt", "open", ": unknown kind of file"),
    ("a.txt.gz", "open", ": unknown kind of file"),
    ("a.json.gz", "open", ": unknown kind of file"),
]


@pytest.mark.parametrize(("name", "content", "told"), BROKEN)
def test_what_is_wrong_is_named_with_its_file_and_line(tmp_path, name, content, told):
    path = file(tmp_path, name, content)
    assert f"{path}{told}" in refused(path)


def test_a_missing_file_is_named(tmp_path):
    assert refused(tmp_path / "none.csv") == f"{tmp_path / 'none.csv'}: no such file"


def test_an_unknown_header_lists_what_was_found_and_every_known_header(tmp_path):
    told = refused(file(tmp_path, "a.csv", "prompt,danger\nopen,high\n"))
    assert "unknown columns: danger, prompt" in told
    for schema in SCHEMAS:
        assert f"{schema.name}: {', '.join(sorted(schema.columns))}" in told
    assert "--map prompt=COLUMN" in told


def test_a_header_with_one_column_more_is_not_guessed(tmp_path):
    assert "unknown columns" in refused(file(tmp_path, "a.csv", "text,harmful,x\na,true,b\n"))


def test_repeated_ids_and_texts_get_unique_ids_and_are_noted(tmp_path):
    rows = [("a", "one"), ("a", "two"), ("a~1", "three"), ("a", "four"), ("b", "one")]
    told = [{"id": i, "text": text, "harmful": "true"} for i, text in rows]
    found = read(written(tmp_path / "a.csv", told))
    assert [seed.text for seed in found.seeds] == [text for _, text in rows]
    assert [seed.id for seed in found.seeds] == ["a", "a~2", "a~1", "a~3", "b"]
    assert "2 rows repeat an id or a text; their ids got a suffix" in found.notes
    again = [{"text": VAULT, "harmful": "true"}] * 3
    assert len({seed.id for seed in read(written(tmp_path / "b.csv", again)).seeds}) == 3


def test_a_limit_takes_rows_from_the_top(tmp_path):
    told = [{"text": f"gate {n}", "harmful": "true"} for n in range(5)]
    seeds = read(written(tmp_path / "a.csv", told), limit=2).seeds
    assert [seed.text for seed in seeds] == ["gate 0", "gate 1"]


def harmbench(**cells: str) -> dict[str, str]:
    blank = dict.fromkeys(columns("HarmBench text behaviors"), "")
    return blank | {"FunctionalCategory": "standard", "Behavior": VAULT} | cells


def test_harmbench_contextual_rows_are_joined_and_copyright_rows_left_out_and_counted(tmp_path):
    rows = [
        harmbench(BehaviorID="a"),
        harmbench(BehaviorID="b", FunctionalCategory="contextual", ContextString="A map."),
        harmbench(BehaviorID="c", FunctionalCategory="copyright"),
        harmbench(BehaviorID="d", FunctionalCategory="copyright"),
    ]
    found = read(written(tmp_path / "a.csv", rows))
    assert [s.text for s in found.seeds] == [VAULT, f"A map.\n\n---\n\n{VAULT}"]
    assert "2 rows left out: copyright (needs a hash judge)" in found.notes
    assert "no usable rows" in refused(written(tmp_path / "b.csv", rows[2:]))


def pool(tmp_path: Path, *records: object) -> Path:
    return file(tmp_path, "pool.jsonl", "".join(json.dumps(told) + "\n" for told in records))


def said(*turns: tuple[str, str]) -> dict[str, object]:
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def test_an_attack_pool_becomes_demonstrations_of_the_last_reply(tmp_path):
    first = said(("system", "rewrite"), ("user", VAULT), ("assistant", "a\u2028play"))
    second = said(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    one, two = read_pool(pool(tmp_path, first, second))
    assert one.observation == (Message("system", "rewrite"), Message("user", VAULT))
    assert one.reply == "a\u2028play"
    assert [m.content for m in two.observation] == ["a", "b", "c"]
    assert two.reply == "d"


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"messages": None},
        {"messages": []},
        {"messages": ["open"]},
        said(("assistant", "a")),
        said(("user", "a")),
        said(("system", "a"), ("assistant", "b")),
        said(("user", "a"), ("user", "b"), ("assistant", "c")),
        said(("user", "a"), ("assistant", "b"), ("user", "c")),
        {"messages": [{"role": ["user"], "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"messages": [{"role": "user", "content": None}, {"role": "assistant", "content": "b"}]},
    ],
)
def test_a_pool_row_that_no_chat_template_would_take_is_named(tmp_path, record):
    path = pool(tmp_path, said(("user", "a"), ("assistant", "b")), record)
    assert f"{path}:2: wanted" in refused(path, read_pool)


def test_an_empty_or_missing_pool_is_refused(tmp_path):
    assert "no rows" in refused(file(tmp_path, "a.jsonl", "\n"), read_pool)
    assert "no such file" in refused(tmp_path / "none.jsonl", read_pool)
