"""Every task finds its files, refuses those of other tasks, and states what success means."""

import json

import pytest

from sparring.data.schemas import SCHEMAS
from sparring.evals.tasks import TASKS, TaskSettings, load_tasks
from sparring.types import UsageError

VAULT, LANTERN = "open the dragon vault", "polish the brass lantern"
JBB = "Index,Goal,Target,Behavior,Category,Source\n0,{},Sure,vault,vaults,own\n"
DAN = {
    **{"platform": "tavern", "source": "bard", "prompt": VAULT, "jailbreak": True},
    **{"created_at": None, "date": "1300", "community_id": 1.0, "community_name": "bards"},
    **{"vanilla": VAULT, "adversarial": f"sing: {VAULT}"},
}
SORRY = {"question_id": 1, "category": "1", "turns": [VAULT], "prompt_style": "base"}
FILES = {
    "harmbench": {
        "harmbench_behaviors_text_test.csv": "Behavior,FunctionalCategory,SemanticCategory,Tags,"
        f"ContextString,BehaviorID\n{VAULT},standard,vaults,,,vault\n"
    },
    "xstest": {
        "xstest_v2_prompts.csv": "id_v1,id_v2,type,prompt,focus,note\n"
        f"v1-1,1,homonyms,{LANTERN},polish,\n"
    },
    "strongreject": {
        "strongreject_small_dataset.csv": f"category,source,forbidden_prompt\nv,custom,{VAULT}\n"
    },
    "wildguardtest": {
        "wildguard_test.csv": "prompt,adversarial,response,response_harm_label,"
        "response_refusal_label,subcategory,prompt_harm_label,prompt_harm_agreement,"
        "response_refusal_agreement,response_harm_agreement\n"
        f"{VAULT},False,,,,vaults,harmful,two,two,two\n"
    },
    "wildjailbreak": {
        "eval.tsv": f"adversarial\tlabel\tdata_type\n{VAULT}\t1\tadversarial_harmful\n"
    },
    "or_bench": {
        "or-bench-hard-1k.csv": f"prompt,category\n{LANTERN},metal\n",
        "or-bench-toxic.csv": f"prompt,category\n{VAULT},vaults\n",
    },
    "dan": {"do_anything_now_jailbreak.jsonl": json.dumps(DAN) + "\n"},
    "jbb": {
        "harmful-behaviors.csv": JBB.format(VAULT),
        "benign-behaviors.csv": JBB.format(LANTERN),
    },
    "advbench": {"harmful_behaviors.csv": f"goal,target\n{VAULT},Sure\n"},
    "sorry_bench": {"question.jsonl": json.dumps(SORRY) + "\n"},
}
"""Every task's files with one row each, under the published columns."""


def write(folder, files):
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def load(*words, **more):
    return load_tasks(TaskSettings(words, **more))


def test_the_schemas_of_every_task_are_readers_that_exist():
    known = {schema.name for schema in SCHEMAS}
    assert all({*task.schemas} <= known for task in TASKS.values())
    assert TASKS.keys() == FILES.keys()


@pytest.mark.parametrize("name", TASKS)
def test_a_task_finds_its_published_files_and_asks_each_prompt_as_it_stands(tmp_path, name):
    [task] = load(name, folder=write(tmp_path, FILES[name]))
    assert (task.name, task.card.success) == (name, TASKS[name].success)
    texts = {s.moves[0].completion.text for states in task.sets.values() for s in states}
    assert texts <= {VAULT, LANTERN, f"sing: {VAULT}"}
    assert len(task.card.sources) == len(FILES[name])
    assert all(len(source.sha256) == 64 for source in task.card.sources)
    wrapped = {"wildguardtest", "wildjailbreak", "dan"}  # attacks already: nobody rewrites them
    assert (not task.rewritable) is (name in wrapped)


def test_both_halves_of_a_task_are_one_task_with_two_sets(tmp_path):
    [task] = load("jbb", folder=write(tmp_path, FILES["jbb"]))
    assert [*task.sets] == ["harmful/jbb", "benign/jbb"]
    [by_files] = load(*(f"jbb={tmp_path / name}" for name in FILES["jbb"]))
    assert by_files.sets == task.sets
    (tmp_path / "benign-behaviors.csv").unlink()
    [half] = load("jbb", folder=tmp_path)
    assert "jbb: without benign-behaviors.csv, which was not found" in half.notes


def test_recorded_attacks_on_harmbench_are_openings_of_its_task(tmp_path):
    row = {"BehaviorID": "vault", "test_case": f"sing: {VAULT}", "model": "m", "method": "song"}
    file = tmp_path / "attacks.json"
    file.write_text(json.dumps([row]))
    [task] = load(f"harmbench={file}")
    [state] = task.sets["harmful/harmbench"]
    assert state.moves[0].completion.text == f"sing: {VAULT}"
    assert (state.seed.cluster, task.rewritable) == ("vault", [])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("harmbensh", "'harmbensh' is no task and no file; did you mean harmbench?"),
        ("zzz", "no file; known: harmbench, xstest"),
        ("harm=seeds.csv", "'harm=seeds.csv' is no task and no file"),
        ("", "'' is no task and no file"),
        ("xstest", "xstest: none of its files in .*; wanted xstest_v2_prompts.csv or"),
        ("harmbench=xs.csv", "harmbench: xs.csv is StrongREJECT; wanted HarmBench text behaviors"),
    ],
)
def test_what_cannot_be_asked_is_refused(tmp_path, monkeypatch, word, message):
    [text] = FILES["strongreject"].values()
    monkeypatch.chdir(write(tmp_path, {"xs.csv": text}))
    with pytest.raises(UsageError, match=message):
        load(word, folder=tmp_path)


def test_a_limit_cuts_every_set_and_says_that_it_is_no_sample(tmp_path):
    file = tmp_path / "seeds.csv"
    file.write_text("text,harmful\n" + "".join(f"open vault {i},{i % 2 > 0}\n" for i in range(9)))
    [task] = load(str(file), limit=2)
    assert [(name, len(states)) for name, states in task.sets.items()] == [
        *(("harmful/seeds", 2), ("benign/seeds", 2))
    ]
    assert "seeds: the first 2 of each label, which is no sample of it" in task.notes
