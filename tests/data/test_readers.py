"""Every published schema is read; whatever is wrong with a file is named with its line."""

import json
import re

import pytest
from tests.data.examples import LANTERN, VAULT, refused, row_of, texts_and_omissions, written

from sparring.data.pools import read_pool
from sparring.data.readers import read
from sparring.data.schemas import digest
from sparring.types import Message


@pytest.fixture
def file(tmp_path):
    """Writes a file of that name and content."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def rows_of(*texts):
    return [{"text": text, "harmful": "true"} for text in texts]


def texts_of(path):
    return [seed.text for seed in read(path).seeds]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_a_byte_order_mark_line_ends_quotes_and_blank_lines_change_nothing(file, bom, end):
    lines = [f"{bom}text,harmful", '"the vault, ""open"" it",true', "", f"{LANTERN},false", "", ""]
    assert texts_of(file("a.csv", end.join(lines))) == ['the vault, "open" it', LANTERN]


TEXTS = [f"open{mark}the vault" for mark in ("\n", "\r\n", "\u2028", "\x85", "\x0c")]
TEXTS += ["None", "NA", "null", "nan", "N/A", "true", "0"]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.json", "a.jsonl"])
def test_separators_inside_a_text_and_texts_like_missing_values_survive(tmp_path, name):
    assert texts_of(written(tmp_path / name, rows_of(*TEXTS))) == TEXTS


def test_half_a_surrogate_pair_is_kept_as_it_stands(file):
    rows = rows_of(*(f"a{half}" for half in ("\ud800", "\udfff", "\ufffd")))
    seeds = read(file("a.jsonl", "\n".join(map(json.dumps, rows)))).seeds
    assert [seed.text for seed in seeds] == [row["text"] for row in rows]
    assert len({seed.id for seed in seeds}) == 3


@pytest.mark.parametrize("missing", [None, float("nan"), 7, ["open"], {"open": 1}, True])
def test_a_missing_or_other_value_never_becomes_a_prompt(tmp_path, missing):
    path = written(tmp_path / "a.jsonl", rows_of(VAULT, missing))
    assert f"{path}:2: text must be text, got " in refused(path)


@pytest.mark.parametrize(
    ("cells", "name", "category"),
    [
        ("", digest(VAULT), ""),
        (', "id": null, "category": null', digest(VAULT), ""),
        (', "id": 3.0, "category": NaN', "3", ""),
    ],
)
def test_a_missing_id_hangs_on_the_text_alone_and_a_null_or_nan_is_missing(
    file, cells, name, category
):
    (seed,) = read(file("a.jsonl", f'{{"text": "{VAULT}", "harmful": true{cells}}}')).seeds
    assert (seed.id, seed.category) == (name, category)


OPEN = '{"text": "a", "harmful": true}\n'
BROKEN = [
    ("a.csv", "text,harmful\nopen,true\nvault\n", ":3: 1 cells where the header has 2"),
    ("a.csv", "text,harmful\nopen,true,more\n", ":2: 3 cells where the header has 2"),
    ("a.csv", 'text,harmful\n"open\nthe\nvault",true\n\nvault\n', ":6: 1 cells"),
    ("a.csv", 'text,harmful\nopen,true\n"vault,true\nx,true\n', ":3: unexpected end of data"),
    ("a.csv", b"text,harmful\nopen,true\nvault \xff,true\n", ":3: not UTF-8"),
    ("a.csv", "text,text,harmful\na,b,true\n", ":1: a column is named twice"),
    ("a.csv", "text,harmful\nopen,true\n \t ,true\n", ":3: the request is empty"),
    (
        "a.csv",
        "text,harmful\nopen,perhaps\n",
        ":2: harmful must be true or false, got another text (7 ",
    ),
    ("a.csv", "", ": empty file"),
    ("a.csv", "text,harmful\n", ": no rows"),
    ("a.csv", "text,harmful,x\na,true,b\n", ": unknown columns: harmful, text, x"),
    ("a.tsv", "text,harmful\nopen,true\n", ": unknown columns: 1 that may be data"),
    ("a.jsonl", OPEN + '{"text": \n', ":2: not JSON"),
    ("a.jsonl", OPEN + '\n{"text": "b"}\n', ":3: not the fields"),
    ("a.jsonl", b'{"text": "a\xff", "harmful": true}\n', ":1: not JSON in UTF-8"),
    ("a.jsonl", "[1]\n", ":1: wanted an object"),
    ("a.jsonl", OPEN + '{"text": ' + "1" * 5000 + "}\n", ":2: not JSON"),
    ("a.jsonl", "[" * 100_000 + "\n", ":1: not JSON"),
    ("a.jsonl", "\n\n", ": no rows"),
    ("a.json", "7", ": wanted a list of records"),
    ("a.json", "[1]", ": record 1: wanted an object"),
    ("a.json", "[]", ": no rows"),
    ("a.json", "", ": not JSON"),
    ("a.parquet", "PAR1", ": not Parquet"),
    *((name, "open", ": unknown kind of file") for name in ("a.txt", "a.txt.gz", "a.json.gz")),
]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN)
def test_an_error_names_the_file_and_the_line(file, name, content, message):
    path = file(name, content)
    assert f"{path}{message}" in refused(path)


@pytest.mark.parametrize("reader", [read, read_pool])
def test_an_empty_or_missing_file_is_refused(file, tmp_path, reader):
    assert "no rows" in refused(file("a.jsonl", "\n"), reader)
    assert refused(tmp_path / "none.jsonl", reader) == f"{tmp_path / 'none.jsonl'}: no such file"


@pytest.mark.parametrize(
    ("header", "compared"),
    [
        ("prompt,danger", "'seeds', has the columns harmful, text, [category]"),
        ("prompt,danger", "this one lacks harmful, text."),
        ("text,harmful,danger", "this one has also danger."),
        ("category,source", "'StrongREJECT', has the columns category, forbidden_prompt, source"),
        ("category,source", "this one lacks forbidden_prompt."),
    ],
)
def test_an_unknown_header_is_compared_with_the_nearest_and_says_how_to_map(file, header, compared):
    message = refused(file("a.csv", f"{header}\n{VAULT}{',x' * header.count(',')}\n"))
    assert ", ".join(sorted(header.split(","))) in message
    assert compared in message
    assert "--map prompt=COLUMN" in message
    assert "map: {prompt: COLUMN, harmful: COLUMN}" in message, "which a run's configuration takes"


SEED = {"text": "a", "harmful": "true"}
BASE = row_of("SORRY-Bench")
HAS_CELLS = {
    "x.csv": f"{VAULT},true\nbread,false\n",
    "y.csv": "vault,harmful\nbread,benign\n",
    "x.tsv": f"{VAULT}\t{VAULT}\n",
    "a.jsonl": [SEED, {"vault": 1, "text": "b"}],
    "b.jsonl": [{"text": {"vault": "gold"}, "harmful": True}],
    "c.jsonl": [SEED, SEED | {"harmful": VAULT}],
    "d.jsonl": [BASE | {"turns": "vault"}],
    "e.jsonl": [row_of("XSTest") | {"type": "contrast_vault", "label": "safe"}],
    "f.json": {"vault": 7},
    "g.jsonl": [SEED, SEED | {"vault": "gold"}],
}


@pytest.mark.parametrize("name", HAS_CELLS)
def test_no_message_shows_a_cell_or_what_may_be_one(file, name):
    """A row that stands where a header should, or a key where no column is called so, is data."""
    content = HAS_CELLS[name]
    text = content if isinstance(content, str) else json.dumps(content)
    if isinstance(content, list):
        text = "".join(json.dumps(row) + "\n" for row in content)
    message = refused(file(name, text))
    assert str(name) in message
    assert not re.search("vault|bread|gold", message)


def test_no_message_of_a_map_shows_a_cell(file):
    path = file("x.csv", f"{VAULT},true\nbread,false\n")
    for columns in ({"prompt": "text", "harmful": "label"}, {"prompt": VAULT, "harmful": VAULT}):
        message = refused(path, lambda path, columns=columns: read(path, columns=columns))
        assert "bread" not in message
        assert ("vault" in message) == (VAULT in columns.values())


def test_repeated_ids_and_texts_get_unique_ids_and_are_noted(tmp_path):
    rows = [("a", "one"), ("a", "two"), ("a~1", "three"), ("a", "four"), ("b", "one")]
    table = [{"id": i, "text": text, "harmful": "true"} for i, text in rows]
    file = read(written(tmp_path / "a.csv", table))
    assert [seed.text for seed in file.seeds] == [text for _, text in rows]
    assert [seed.id for seed in file.seeds] == ["a", "a~2", "a~1", "a~3", "b"]
    assert "2 rows repeat an id or a text; their ids got a suffix" in file.notes


def test_copyright_rows_are_left_out_and_counted_beside_the_rows_read(tmp_path):
    standard = row_of("HarmBench text behaviors", FunctionalCategory="standard", ContextString="")
    song = standard | {"FunctionalCategory": "copyright"}
    path = written(tmp_path / "a.csv", [standard, song, song])
    omitted = ["2 rows left out: copyright (needs a hash judge)"]
    assert texts_and_omissions(path) == ([VAULT], omitted)
    assert "read as HarmBench text behaviors: 1 seeds of 3 rows" in read(path).notes
    assert "no usable rows" in refused(written(tmp_path / "b.csv", [song]))


def dialogue(roles: str, *contents):
    """Messages of these roles, by their first letters."""
    names = {"s": "system", "u": "user", "a": "assistant", "?": ["user"]}
    turns = zip(roles, contents or roles, strict=True)
    return {"messages": [{"role": names[role], "content": text} for role, text in turns]}


def test_an_attack_pool_becomes_demonstrations_of_the_last_reply(tmp_path):
    first, second = dialogue("sua", "rewrite", VAULT, "a\u2028play"), dialogue("uaua", *"abcd")
    short, long = read_pool(written(tmp_path / "pool.jsonl", [first, second]))
    assert short.observation == (Message("system", "rewrite"), Message("user", VAULT))
    assert short.reply == "a\u2028play"
    assert [m.content for m in long.observation] == ["a", "b", "c"]
    assert long.reply == "d"


ALPACA = {"instruction": "rewrite", "input": VAULT, "output": "a play", "system": "the brief"}
SHARED = {
    "system": "the brief",
    "conversations": [
        {"from": "human", "value": f"rewrite\n{VAULT}"},
        {"from": "gpt", "value": "a play"},
    ],
}


@pytest.mark.parametrize("name", ["pool.json", "pool.jsonl"])
@pytest.mark.parametrize("row", [ALPACA, SHARED])
def test_llama_factorys_layouts_are_pools(tmp_path, name, row):
    [demo] = read_pool(written(tmp_path / name, [row]))
    asked = (Message("system", "the brief"), Message("user", f"rewrite\n{VAULT}"))
    assert (demo.observation, demo.reply) == (asked, "a play")


def test_a_pool_of_llama_factory_may_lack_input_and_system_and_have_a_history(tmp_path):
    bare = {"instruction": VAULT, "output": "a play"}
    past = bare | {"input": "", "system": None, "history": [["a", "b"]]}
    short, long = read_pool(written(tmp_path / "pool.json", [bare, past]))
    assert short.observation == (Message("user", VAULT),)
    assert [m.content for m in long.observation] == ["a", "b", VAULT]


@pytest.mark.parametrize(
    "record",
    [
        *({}, {"messages": None}, {"messages": []}, {"messages": ["open"]}),
        *(dialogue(roles) for roles in ("a", "u", "sa", "uua", "uau", "?a")),
        dialogue("ua", None, "b"),
        *(ALPACA | {name: 7} for name in ("instruction", "input", "output", "system", "history")),
        *({"conversations": turns} for turns in (7, ["a"], [{"from": "gpt", "value": "a"}])),
    ],
)
def test_a_pool_row_that_no_chat_template_would_take_is_named(tmp_path, record):
    path = written(tmp_path / "pool.jsonl", [dialogue("ua"), record])
    assert f"{path}:2: wanted" in refused(path, read_pool)
