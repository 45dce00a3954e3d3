"""Every task finds its files, refuses another's, and says what success is."""

import csv
import json

import pytest

from sparring.data.schemas import SCHEMAS
from sparring.evals.tasks import TASKS, TaskSettings, load_tasks
from sparring.types import UsageError

VAULT, LANTERN = "open the dragon vault", "polish the brass lantern"
ROWS = {
    "harmbench": {
        "harmbench_behaviors_text_test.csv": {
            "Behavior": VAULT,
            "FunctionalCategory": "standard",
            "SemanticCategory": "vaults",
            "Tags": "",
            "ContextString": "",
            "BehaviorID": "vault",
        }
    },
    "xstest": {
        "xstest_v2_prompts.csv": {
            "id_v1": "v1-1",
            "id_v2": "1",
            "type": "homonyms",
            "prompt": LANTERN,
            "focus": "polish",
            "note": "",
        }
    },
    "strongreject": {
        "strongreject_small_dataset.csv": {
            "category": "vaults",
            "source": "custom",
            "forbidden_prompt": VAULT,
        }
    },
    "wildguardtest": {
        "wildguard_test.csv": {
            "prompt": VAULT,
            "adversarial": "False",
            "response": "",
            "response_harm_label": "",
            "response_refusal_label": "",
            "subcategory": "vaults",
            "prompt_harm_label": "harmful",
            "prompt_harm_agreement": "two",
            "response_refusal_agreement": "two",
            "response_harm_agreement": "two",
        }
    },
    "wildjailbreak": {
        "eval.tsv": {"adversarial": VAULT, "label": "1", "data_type": "adversarial_harmful"}
    },
    "or_bench": {
        "or-bench-hard-1k.csv": {"prompt": LANTERN, "category": "metal"},
        "or-bench-toxic.csv": {"prompt": VAULT, "category": "vaults"},
    },
    "dan": {
        "do_anything_now_jailbreak.jsonl": {
            "platform": "tavern",
            "source": "bard",
            "prompt": VAULT,
            "jailbreak": True,
            "created_at": None,
            "date": "1300",
            "community_id": 1.0,
            "community_name": "bards",
            "vanilla": VAULT,
            "adversarial": f"sing: {VAULT}",
        }
    },
    "jbb": {
        "harmful-behaviors.csv": {
            "Index": "0",
            "Goal": VAULT,
            "Target": "Sure",
            "Behavior": "vault",
            "Category": "vaults",
            "Source": "own",
        },
        "benign-behaviors.csv": {
            "Index": "0",
            "Goal": LANTERN,
            "Target": "Sure",
            "Behavior": "lantern",
            "Category": "metal",
            "Source": "own",
        },
    },
    "advbench": {"harmful_behaviors.csv": {"goal": VAULT, "target": "Sure"}},
    "sorry_bench": {
        "question.jsonl": {
            "question_id": 1,
            "category": "1",
            "turns": [VAULT],
            "prompt_style": "base",
        }
    },
}
"""One row of every file, with its published columns."""


def write(folder, rows):
    folder.mkdir(exist_ok=True)
    for name, row in rows.items():
        with (folder / name).open("w", newline="") as file:
            if name.endswith(".jsonl"):
                file.write(json.dumps(row) + "\n")
            else:
                tabs = "\t" if name.endswith(".tsv") else ","
                told = csv.DictWriter(file, row, delimiter=tabs)
                told.writeheader()
                told.writerow(row)
    return folder


def asked(*words, **more):
    return load_tasks(TaskSettings(words, **more))


def test_the_schemas_of_every_task_are_readers_that_exist():
    known = {schema.name for schema in SCHEMAS}
    assert all({*task.schemas} <= known for task in TASKS.values())
    assert TASKS.keys() == ROWS.keys()


@pytest.mark.parametrize("name", TASKS)
def test_a_task_finds_its_published_files_and_asks_each_prompt_as_it_stands(tmp_path, name):
    write(tmp_path, ROWS[name])
    [told] = asked(name, folder=tmp_path)
    assert (told.name, told.card.success) == (name, TASKS[name].success)
    texts = {s.moves[0].completion.text for states in told.sets.values() for s in states}
    assert texts <= {VAULT, LANTERN, f"sing: {VAULT}"}
    assert len(told.card.sources) == len(ROWS[name])
    assert all(len(source.sha256) == 64 for source in told.card.sources)


def test_both_halves_of_a_task_are_one_task_with_two_sets(tmp_path):
    [told] = asked("jbb", folder=write(tmp_path, ROWS["jbb"]))
    assert [*told.sets] == ["harmful/jbb", "benign/jbb"]
    [spelled] = asked(*(f"jbb={tmp_path / name}" for name in ROWS["jbb"]))
    assert spelled.sets == told.sets


def test_half_a_task_says_what_is_missing(tmp_path):
    rows = {name: row for name, row in ROWS["or_bench"].items() if "toxic" in name}
    [told] = asked("or_bench", folder=write(tmp_path, rows))
    assert "or_bench: without or-bench-hard-1k.csv, which was not found" in told.notes


def test_prompts_that_are_attacks_already_are_not_rewritten(tmp_path):
    told = {}
    for name, rows in ROWS.items():
        [told[name]] = asked(name, folder=write(tmp_path / name, rows))
    wrapped = {name for name, one in told.items() if not one.rewritable}
    assert wrapped == {"wildguardtest", "wildjailbreak", "dan"}


def test_recorded_attacks_on_harmbench_are_openings_of_its_task(tmp_path):
    row = {"BehaviorID": "vault", "test_case": f"sing: {VAULT}", "model": "m", "method": "song"}
    file = tmp_path / "attacks.json"
    file.write_text(json.dumps([row]))
    [told] = asked(f"harmbench={file}")
    [state] = told.sets["harmful/harmbench"]
    assert state.moves[0].completion.text == f"sing: {VAULT}"
    assert (state.seed.cluster, told.rewritable) == ("vault", [])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("harmbensh", "'harmbensh' is no task and no file; tasks: harmbench, xstest"),
        ("harm=seeds.csv", "'harm=seeds.csv' is no task and no file"),
        ("", "'' is no task and no file"),
        ("xstest", "xstest: none of its files in .*; wanted xstest_v2_prompts.csv or"),
        ("harmbench=xs.csv", "harmbench: xs.csv is StrongREJECT; wanted HarmBench text behaviors"),
    ],
)
def test_what_cannot_be_asked_is_refused(tmp_path, monkeypatch, word, message):
    monkeypatch.chdir(
        write(tmp_path, {"xs.csv": ROWS["strongreject"]["strongreject_small_dataset.csv"]})
    )
    with pytest.raises(UsageError, match=message):
        asked(word, folder=tmp_path)


def test_a_limit_cuts_every_set_and_says_that_it_is_no_sample(tmp_path):
    file = tmp_path / "seeds.csv"
    file.write_text("text,harmful\n" + "".join(f"open vault {i},{i % 2 > 0}\n" for i in range(9)))
    [told] = asked(str(file), limit=2)
    assert {name: len(states) for name, states in told.sets.items()} == {
        "harmful/seeds": 2,
        "benign/seeds": 2,
    }
    assert "seeds: the first 2 of each label, which is no sample of it" in told.notes
