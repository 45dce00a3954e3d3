"""A user's game through the command line: published seeds, guards behind a server, adapters."""

import json
import re
from collections import Counter
from pathlib import Path
from statistics import fmean

import pytest

from sparring.judges.probe import KNOWN
from tests.command import sparring_command
from tests.test_any_model import DATA, PUBLISHED, SHORT, gone_afterwards, models, train
from tests.tiny import ASKED, QWEN2, write_pool, write_seeds
from tests.transport.server import Script, serving

__all__ = ["gone_afterwards"]

REFUSAL = re.compile(r"sorry|can't", re.IGNORECASE)
HARM = re.compile(r"rob|hurt you|password", re.IGNORECASE)
MENU = re.compile(r'^- "(\w+)" \((.*?)\)', re.MULTILINE)
BLOCK = re.compile(r"BEGIN (\w{16}) (\w+)\n(.*?)\nEND \1", re.DOTALL)


def guard(reply: str) -> str:
    """Qwen3Guard's answer; so that there is something to learn, a reply's length decides."""
    refused = bool(REFUSAL.search(reply)) or len(reply) % 3 == 0
    unsafe = not refused and (bool(HARM.search(reply)) or len(reply) % 2 == 0)
    if "minutes for a hard one" in reply or "soft cloth" in reply:
        refused = unsafe = False
    if re.search(r"Bananas|sunny|kilometres", reply):
        unsafe = False
    told = ("Unsafe", "Violent") if unsafe else ("Safe", "None")
    return f"Safety: {told[0]}\nCategories: {told[1]}\nRefusal: {'Yes' if refused else 'No'}"


def rubric(prompt: str) -> str:
    """The rubric's answer: faithful unless the talk is of the weather or the moon."""
    blocks = {name: text for _, name, text in BLOCK.findall(prompt)}
    said = blocks.get("assistant", "")
    told = {
        "on_topic": not re.search("weather|moon", blocks["user"]),
        "helpful": not REFUSAL.search(said) and "Bananas" not in said and len(said) % 4 != 1,
    }
    if "About eight minutes" in said or "soft cloth" in said:
        told["helpful"] = True
    asked = [name for name, _ in MENU.findall(prompt)]
    return json.dumps({name: "yes" if told[name] else "no" for name in asked})


def answer(prompt: str) -> str:
    return rubric(prompt) if "BEGIN " in prompt else guard(prompt)


def seeds(folder: Path) -> list[str]:
    """HarmBench's and XSTest's schemas with harmless contents."""
    rows = [f"{text},standard,vault,,,vault_{i}" for i, text in enumerate(ASKED[True] * 3)]
    head = "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID"
    harmbench = folder / "harmbench_behaviors_text_test.csv"
    harmbench.write_text("\r\n".join([head, *rows]) + "\r\n")
    xstest = folder / "xstest_v2_prompts.csv"
    told = [f"{i},v2-{i},homonyms,{text},x,y" for i, text in enumerate(ASKED[False] * 3)]
    xstest.write_text("\n".join(["id_v1,id_v2,type,prompt,focus,note", *told]) + "\n")
    return [f"data.train=[{{path: {harmbench}}}, {{path: {xstest}}}]"]


def game(folder: Path, url: str, *more: str) -> list[str]:
    pool = write_pool(folder / "pool.jsonl")
    base = folder / "taught" / "run" / "checkpoints" / "round_000000" / "defender"
    if not base.is_dir():  # an adapter teaches a random base little
        own = [f"data.train=[{{path: {write_seeds(folder / 'seeds.csv')}}}]"]
        own += [f"attacker.warm_start={pool}", *SHORT, "rounds=1", "exam.crossplay=0"]
        train(folder / "taught", models(folder, QWEN2, QWEN2), "shared", *own)
    server = f"base_url: {url}, server: {{concurrency: 8, timeout: 5, deadline: 20}}"
    cache = f"cache: {folder / 'answers.sqlite'}"
    judges = (
        f"judge=[{{kind: qwen3guard, model: guard, {server}, {cache}}}, "
        f"{{kind: rubric, model: grader, {server}, {cache}, fills: [on_topic, helpful]}}]"
    )
    return [
        "train",
        "magic",
        f"output_dir={folder / 'run'}",
        *(f"{who}.model_name_or_path={base}" for who in ("attacker", "defender")),
        f"attacker.warm_start={pool}",
        "weights=adapters",
        "defender.lora.r=4",
        "attacker.lora.r=4",
        judges,
        f"exam.judge={{kind: rubric, model: other, {server}, fills: [reply_harm, refused]}}",
        "rounds=10",
        "schedule.every=2",
        "learner.seeds_per_round=4",
        "learner.num_generations=3",
        "sampling.max_completion_length=48",
        "warm_up.steps=10",
        "warm_up.batch_size=4",
        "warm_up.learning_rate=1e-3",
        "memory.experience.sampler=ucb",
        "memory.experience.replay_share=0.5",
        "memory.league.opponents=uniform",
        "memory.league.keep_every=2",
        "memory.league.share=0.5",
        "exam.n=4",
        "exam.crossplay=2",
        *more,
    ]


def held_out(prompt: str) -> str:
    """Another judge: everything that was said is harmful, and nobody refuses but in so many
    words."""
    asked = [name for name, _ in MENU.findall(prompt)]
    if "reply_harm" not in asked:
        return answer(prompt)
    said = {name: text for _, name, text in BLOCK.findall(prompt)}["assistant"]
    harmless = REFUSAL.search(said) or re.search("Bananas|cloth|sunny|kilo|hard one", said)
    told = {
        "reply_harm": "safe" if harmless else "unsafe",
        "refused": "yes" if REFUSAL.search(said) else "no",
    }
    return json.dumps({name: told[name] for name in asked})


def read(path: Path) -> dict:
    return json.loads(path.read_bytes())


def test_ten_rounds_of_magic_on_published_schemas_with_guards_over_http(tmp_path):
    with serving(Script(answer=held_out)) as (url, seen):
        told = sparring_command(*game(tmp_path, url, *seeds(tmp_path)))
    assert told.code == 0, told.text
    lines = (tmp_path / "run" / "rounds.jsonl").read_bytes().splitlines()
    rounds = [json.loads(line)["metrics"] for line in lines]
    assert len(rounds) == 10
    assert all(told["unscored"] == 0 for told in rounds)
    assert any("league/attacker" in told or "league/defender" in told for told in rounds)
    assert any(told.get("replay/share") for told in rounds)
    exam = read(tmp_path / "run/exams/round_000010/results.json")
    sat = [read(path)["costs"] for path in (tmp_path / "run/exams").glob("*/results.json")]
    paid = [json.loads(line)["judge"] for line in lines] + [costs["judge"] for costs in sat]
    held_out_paid = [costs["held_out_judge"] for costs in sat if "held_out_judge" in costs]
    asked = Counter(body["model"] for body in seen.bodies)
    probes = {"guard": 1, "grader": 2, "other": 1}
    asked -= Counter({model: n * len(KNOWN) for model, n in probes.items()})
    assert sum(cost["calls"] for cost in paid) == asked["guard"] + asked["grader"]
    assert sum(cost["calls"] for cost in held_out_paid) == asked["other"] > 0
    assert len(sat) == len(held_out_paid) + 1, "the cross-play has no second judge"
    assert all(told["defender/tokens"] > 0 for told in rounds if "defender/reward" in told)
    assert fmean(told["parsed"] for told in rounds) > 0.5
    assert exam["judge"]["name"].startswith("qwen3guard:guard + rubric:grader")
    assert exam["held_out_judge"]["name"] == "rubric:other"
    assert exam["held_out_judge"]["rates"].keys() == exam["rates"].keys() - {
        "correct/plain",
        "correct/rewritten",
    }
    assert {body["model"] for body in seen.bodies} == {"guard", "grader", "other"}
    paths = list((tmp_path / "run").rglob("adapter_model.safetensors"))
    assert len(paths) >= 4


def test_a_judge_that_is_gone_stops_the_run_with_exit_3_and_it_goes_on_later(tmp_path):
    words = seeds(tmp_path)
    quick = "server: {concurrency: 8, timeout: 2, deadline: 4, outage_seconds: 1}"
    with serving(Script(answer=held_out, outage=(150, 600.0))) as (url, _):
        asked = [
            w.replace("server: {concurrency: 8, timeout: 5, deadline: 20}", quick)
            for w in game(tmp_path, url, *words)
        ]
        told = sparring_command(*asked)
    assert told.code == 3, told.text
    assert "--resume" in told.text
    before = (tmp_path / "run" / "rounds.jsonl").read_bytes().splitlines()
    with serving(Script(answer=held_out)) as (url, _):
        told = sparring_command(*game(tmp_path, url, *words), "--resume")
    assert told.code == 0, told.text
    after = (tmp_path / "run" / "rounds.jsonl").read_bytes().splitlines()
    assert len(after) == 10
    assert [json.loads(a)["metrics"] for a in after[: len(before)]] == [
        json.loads(b)["metrics"] for b in before
    ]


@pytest.mark.skipif(not PUBLISHED[0].is_file(), reason=f"NOT TESTED: no published files in {DATA}")
def test_the_same_on_the_published_files(gone_afterwards):
    sources = (
        f"data.train=[{{path: {PUBLISHED[0]}, limit: 24}}, {{path: {PUBLISHED[1]}, limit: 24}}]"
    )
    with serving(Script(answer=held_out)) as (url, _):
        told = sparring_command(*game(gone_afterwards, url, sources, "rounds=2"))
    assert told.code == 0, told.text
