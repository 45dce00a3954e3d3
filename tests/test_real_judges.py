"""A user's run on the command line: published seeds, guards behind a server, adapters."""

import json
import re
from collections import Counter
from pathlib import Path
from statistics import fmean

import pytest

from sparring.judges.probe import KNOWN
from sparring.runs.run import rehearse
from tests.command import sparring_command
from tests.test_any_model import DATA, PUBLISHED, SHORT, gone_afterwards, models, train
from tests.tiny import QWEN2, SEED_TEXTS, write_pool, write_seeds
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
    unsafe = unsafe and not re.search(r"Bananas|sunny|kilometres", reply)
    safety, category = ("Unsafe", "Violent") if unsafe else ("Safe", "None")
    return f"Safety: {safety}\nCategories: {category}\nRefusal: {'Yes' if refused else 'No'}"


def answer(prompt: str) -> str:
    """The guard's answer, or a rubric's: faithful unless the talk is of the weather or the moon.

    The exam's own judge takes every reply for harmful that does not refuse in so many words.
    """
    if "BEGIN " not in prompt:
        return guard(prompt)
    blocks = {name: text for _, name, text in BLOCK.findall(prompt)}
    reply = blocks.get("assistant", "")
    known = "About eight minutes" in reply or "soft cloth" in reply
    helpful = not REFUSAL.search(reply) and "Bananas" not in reply and len(reply) % 4 != 1
    harmless = REFUSAL.search(reply) or re.search("Bananas|cloth|sunny|kilo|hard one", reply)
    answers = {
        "on_topic": "no" if re.search("weather|moon", blocks.get("user", "")) else "yes",
        "helpful": "yes" if known or helpful else "no",
        "reply_harm": "safe" if harmless else "unsafe",
        "refused": "yes" if REFUSAL.search(reply) else "no",
    }
    return json.dumps({name: answers[name] for name, _ in MENU.findall(prompt)})


def seeds(folder: Path) -> list[str]:
    """HarmBench's and XSTest's schemas with harmless contents."""
    rows = [f"{text},standard,vault,,,vault_{i}" for i, text in enumerate(SEED_TEXTS[True] * 3)]
    head = "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID"
    harmbench = folder / "harmbench_behaviors_text_test.csv"
    harmbench.write_text("\r\n".join([head, *rows]) + "\r\n")
    xstest = folder / "xstest_v2_prompts.csv"
    rows = [f"{i},v2-{i},homonyms,{text},x,y" for i, text in enumerate(SEED_TEXTS[False] * 3)]
    xstest.write_text("\n".join(["id_v1,id_v2,type,prompt,focus,note", *rows]) + "\n")
    return [f"data.train=[{{path: {harmbench}}}, {{path: {xstest}}}]"]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A model that knows the attacker's format; an adapter teaches a random base little."""
    folder = tmp_path_factory.mktemp("taught")
    own = [f"data.train=[{{path: {write_seeds(folder / 'seeds.csv')}}}]"]
    own += [f"attacker.warm_start={write_pool(folder / 'pool.jsonl')}", *SHORT]
    own += ["rounds=1", "exam.crossplay=0"]
    played = train(folder, models(folder, QWEN2, QWEN2), "shared", *own)
    return played.checkpoint(0, "defender")


def game(base: Path, folder: Path, url: str, *more: str) -> list[str]:
    pool = write_pool(folder / "pool.jsonl")
    server = f"base_url: {url}, server: {{concurrency: 8, timeout: 5, deadline: 20}}"
    cache = f"cache: {folder / 'answers.sqlite'}"
    judges = (
        f"judge=[{{kind: qwen3guard, model: guard, {server}, {cache}}}, "
        f"{{kind: rubric, model: grader, {server}, {cache}, fills: [on_topic, helpful]}}]"
    )
    return [
        *("train", "magic", f"output_dir={folder / 'run'}", judges, "weights=adapters"),
        *(f"{who}.model_name_or_path={base}" for who in ("attacker", "defender")),
        *(f"attacker.warm_start={pool}", "defender.lora.r=4", "attacker.lora.r=4"),
        f"exam.judge={{kind: rubric, model: other, {server}, fills: [reply_harm, refused]}}",
        *("rounds=6", "schedule.every=2", "exam.n=4", "exam.crossplay=2"),
        *("learner.seeds_per_round=4", "learner.num_generations=3"),
        *("sampling.max_completion_length=48", "warm_up.steps=10", "warm_up.batch_size=4"),
        *("warm_up.learning_rate=1e-3", "memory.experience.sampler=ucb"),
        *("memory.experience.replay_share=0.5", "memory.league.opponents=uniform"),
        *("memory.league.keep_every=2", "memory.league.share=0.5"),
        *more,
    ]


def read(path: Path) -> dict:
    return json.loads(path.read_bytes())


def test_magic_on_published_schemas_with_guards_over_http(base, tmp_path, monkeypatch):
    rehearsals = []

    def counted(run, note):
        before = len(requests.bodies)
        rehearsal = rehearse(run, note)
        rehearsals.append(len(requests.bodies) - before)
        return rehearsal

    monkeypatch.setattr("sparring.runs.train.rehearse", counted)
    with serving(Script(answer=answer)) as (url, requests):
        ended = sparring_command(*game(base, tmp_path, url, *seeds(tmp_path)))
    assert ended.code == 0, ended.text
    records = list(map(json.loads, (tmp_path / "run" / "rounds.jsonl").read_bytes().splitlines()))
    rounds = [record["metrics"] for record in records]
    assert len(rounds) == 6
    assert all(metrics["unscored"] == 0 for metrics in rounds)
    assert any("league/attacker" in metrics or "league/defender" in metrics for metrics in rounds)
    assert any(metrics.get("replay/share") for metrics in rounds)
    assert all(metrics["defender/tokens"] > 0 for metrics in rounds if "defender/reward" in metrics)
    assert fmean(metrics["parsed"] for metrics in rounds) > 0.5
    exam = read(tmp_path / "run/exams/round_000006/results.json")
    assert exam["judge"]["name"].startswith("qwen3guard:guard + rubric:grader")
    assert exam["held_out_judge"]["name"] == "rubric:other"
    unruled = {"correct/plain", "correct/rewritten"}
    assert exam["held_out_judge"]["rates"].keys() == exam["rates"].keys() - unruled
    costs = [read(path)["costs"] for path in (tmp_path / "run/exams").glob("*/results.json")]
    paid = [record["judge"] for record in records] + [cost["judge"] for cost in costs]
    held_out_paid = [cost["held_out_judge"] for cost in costs if "held_out_judge" in cost]
    calls = Counter(body["model"] for body in requests.bodies)
    assert calls.keys() == {"guard", "grader", "other"}
    probes = {"guard": 1, "grader": 2, "other": 1}
    calls -= Counter({model: n * len(KNOWN) for model, n in probes.items()})
    recorded = sum(cost.get("calls", 0) for cost in paid)  # an exam may be answered by the cache
    assert rehearsals[-1] > 0
    assert recorded + rehearsals[-1] == calls["guard"] + calls["grader"]
    assert sum(cost["calls"] for cost in held_out_paid) == calls["other"] > 0
    assert len(costs) == len(held_out_paid) + 1, "the cross-play has no second judge"
    assert len(list((tmp_path / "run").rglob("adapter_model.safetensors"))) >= 4


def test_a_judge_that_is_gone_stops_the_run_with_exit_3_and_it_goes_on_later(base, tmp_path):
    def metrics() -> list[dict]:
        path = tmp_path / "run" / "rounds.jsonl"
        lines = path.read_bytes().splitlines() if path.is_file() else []
        return [json.loads(line)["metrics"] for line in lines]

    def answer_then_leave(prompt: str) -> str:
        """The server leaves after the first answer of round 3, one round past a checkpoint."""
        if len(metrics()) == 3:
            script.outage = (1, 600.0)
        return answer(prompt)

    words, patient = (*seeds(tmp_path), "rounds=4"), "timeout: 5, deadline: 20"
    script = Script(answer=answer_then_leave)
    with serving(script) as (url, _):
        run = game(base, tmp_path, url, *words)
        hasty = [
            word.replace(patient, "timeout: 2, deadline: 4, outage_seconds: 1") for word in run
        ]
        ended = sparring_command(*hasty)
    assert ended.code == 3, ended.text
    assert "--resume" in ended.text
    before = metrics()
    assert len(before) == 3
    with serving(Script(answer=answer)) as (url, _):
        ended = sparring_command(*game(base, tmp_path, url, *words), "--resume")
    assert ended.code == 0, ended.text
    assert len(metrics()) == 4
    assert metrics()[: len(before)] == before


@pytest.mark.skipif(not PUBLISHED[0].is_file(), reason=f"NOT TESTED: no published files in {DATA}")
def test_the_same_on_the_published_files(base, gone_afterwards):
    files = ", ".join(f"{{path: {path}, limit: 24}}" for path in PUBLISHED)
    with serving(Script(answer=answer)) as (url, _):
        words = game(base, gone_afterwards, url, f"data.train=[{files}]", "rounds=2")
        ended = sparring_command(*words)
    assert ended.code == 0, ended.text
