"""The task table, and from `--tasks` to openings: files found, read and checked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparring.data.readers import located, read
from sparring.data.schemas import SCHEMAS
from sparring.evals.sheet import Source, Success
from sparring.store.files import sha256
from sparring.types import Player, Seed, State, UsageError


@dataclass(frozen=True, slots=True)
class Task:
    """A published set of prompts.

    `files` are its parts; each is the names under which that part is published, the usual one
    first. A part that is not there is noted, and one at least must be. `schemas` are the readers'
    names that it may match. `judge` is what its makers judge by; another one's numbers are others.
    """

    name: str
    files: Sequence[Sequence[str]]
    schemas: Sequence[str]
    success: Success
    judge: str = ""
    terms: str = ""
    cluster: str = "prompt"


_GUARD = "WildGuard (safety-eval)"
_HUB = "huggingface.co/datasets"

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task(
            "harmbench",
            [
                (
                    "harmbench_behaviors_text_test.csv",
                    "harmbench_behaviors_text_all.csv",
                    "harmbench_behaviors_text_val.csv",
                    "harmbench_percomputed_attacks.json",
                )
            ],
            ["HarmBench text behaviors", "HarmBench precomputed attacks"],
            success="harmful",
            judge="HarmBench-Llama-2-13b-cls",
            cluster="behavior",
            terms="MIT, github.com/centerforaisafety/HarmBench",
        ),
        Task(
            "xstest",
            [
                (
                    "xstest_v2_prompts.csv",
                    "xstest_prompts.csv",
                    "xstest_exaggerated_safety.json",
                    "xstest_v2.json",
                )
            ],
            ["XSTest v2 (CSV)", "XSTest v2 (JSON)", "XSTest", "XSTest (Hugging Face)"],
            success="not_refused",
            judge="people, or GPT-4 with three classes",
            terms="CC-BY-4.0, github.com/paul-rottger/xstest",
        ),
        Task(
            "strongreject",
            [("strongreject_dataset.csv", "strongreject_small_dataset.csv")],
            ["StrongREJECT"],
            success="harmful",
            judge="the StrongREJECT rubric",
            terms="MIT, github.com/alexandrasouly/strongreject",
        ),
        Task(
            "wildguardtest",
            [
                (
                    "wildguard_test.csv",
                    "wildguardtest.csv",
                    "wildguard_test.parquet",
                    "wildguardtest.parquet",
                )
            ],
            ["WildGuardMix (test)"],
            success="harmful",
            judge=_GUARD,
            terms=f"ODC-BY and AI2's form, gated, {_HUB}/allenai/wildguardmix",
        ),
        Task(
            "wildjailbreak",
            [("eval.tsv", "wildjailbreak_eval.tsv", "harmful.jsonl"), ("benign.jsonl",)],
            [
                "WildJailbreak (eval)",
                "WildJailbreak (train)",
                "WildJailbreak in safety-eval (harmful)",
                "WildJailbreak in safety-eval (benign)",
            ],
            success="not_refused",
            judge=_GUARD,
            cluster="plain request, where the file has it",
            terms=f"ODC-BY and AI2's form, gated, {_HUB}/allenai/wildjailbreak",
        ),
        Task(
            "or_bench",
            [("or-bench-hard-1k.csv", "or-bench-80k.csv"), ("or-bench-toxic.csv",)],
            ["OR-Bench (or-bench-hard-1k)", "OR-Bench (or-bench-80k)", "OR-Bench (or-bench-toxic)"],
            success="not_refused",
            judge="keywords, or GPT-4 with three classes",
            terms=f"CC-BY-4.0, {_HUB}/bench-llm/or-bench",
        ),
        Task(
            "dan",
            [("do_anything_now_jailbreak.jsonl",)],
            ["Do Anything Now (safety-eval)"],
            success="not_refused",
            judge=_GUARD,
            cluster="plain request",
            terms="Apache-2.0, github.com/allenai/safety-eval",
        ),
        Task(
            "jbb",
            [("harmful-behaviors.csv", "harmful.csv"), ("benign-behaviors.csv", "benign.csv")],
            [
                "JailbreakBench behaviors (harmful)",
                "JailbreakBench behaviors (benign)",
                "JailbreakBench artifacts",
            ],
            success="harmful",
            judge="Llama-3-70B with JailbreakBench's prompt",
            terms=f"MIT, {_HUB}/JailbreakBench/JBB-Behaviors",
        ),
        Task(
            "advbench",
            [("harmful_behaviors.csv", "advbench_behaviors.csv")],
            ["AdvBench", "AdvBench (HarmBench's copy)"],
            success="harmful",
            judge="refusal strings",
            terms="MIT, github.com/llm-attacks/llm-attacks",
        ),
        Task(
            "sorry_bench",
            [("question.jsonl", "sorry_bench_202503.jsonl")],
            ["SORRY-Bench"],
            success="not_refused",
            judge="ft-mistral-7b-instruct-v0.2-sorry-bench-202406",
            terms=f"its own licence, gated, {_HUB}/sorry-bench/sorry-bench-202503",
        ),
    )
}


def own(name: str) -> Task:
    """A file of the user's, read by its own schema."""
    return Task(name, (), (), "harmful", cluster="the seed's cluster, else its id")


def table() -> list[tuple[str, str, str, str, str]]:
    """(task, files, success, makers' judge, terms) of every task, for people."""
    return [
        (t.name, " + ".join(part[0] for part in t.files), t.success, t.judge, t.terms)
        for t in TASKS.values()
    ]


_WORD = re.compile(r"([A-Za-z][A-Za-z0-9_-]*)=(.+)", re.DOTALL)
_WRAPPED = {schema.name for schema in SCHEMAS if schema.group in ("attacks", "replies")}
"""Files whose prompts are attacks already: a trained attacker does not rewrite them."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """One task with its openings by set; `rewritable` are the sets that an attacker may rewrite.

    `notes` are for people.
    """

    task: Task
    success: Success
    sources: Sequence[Source]
    sets: Mapping[str, Sequence[State]]
    rewritable: Sequence[str]
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """What to ask: `words` as in `--tasks`, files in `folder`, `limit` openings of each set."""

    words: Sequence[str]
    folder: Path = Path("data")
    limit: int | None = None
    success: Success | None = None


def chosen(asked: Asked) -> list[Chosen]:
    """Every task once, in the order they were named; a task named twice has both files.

    UsageError where a task is not known, its file is not found or another file, or two are called
    alike.
    """
    files: dict[str, list[str]] = {}
    tasks: dict[str, Task] = {}
    for word in asked.words:
        task, found = _found(word.strip(), asked.folder)
        if task.name in tasks and not tasks[task.name].schemas:
            raise UsageError(f"--tasks: two files are called {task.name}; rename one")
        tasks[task.name] = task
        files.setdefault(task.name, []).extend(found)
    return [_read(task, files[name], asked) for name, task in tasks.items()]


def _found(word: str, folder: Path) -> tuple[Task, list[str]]:
    named = _WORD.fullmatch(word)
    if named and named[1] in TASKS:
        task, place = TASKS[named[1]], Path(named[2]).expanduser()
        return task, [*_in(task, place)] if place.is_dir() else [named[2]]
    if word in TASKS:
        return TASKS[word], [*_in(TASKS[word], folder)]
    if not word or (named and not Path(word).exists()) or _is_a_word(word):
        raise UsageError(
            f"--tasks: {word!r:.80} is no task and no file; tasks: {', '.join(TASKS)} (as NAME, or "
            "NAME=FILE), sandbox, or any seed file"
        )
    return own(Path(word.partition("@")[0]).stem), [word]


def _is_a_word(word: str) -> bool:
    return not Path(word).exists() and not re.search(r"[./\\:]", word)


def _in(task: Task, folder: Path) -> Iterator[str]:
    """The task's files in a folder or its subfolder of the task's name."""
    found = 0
    for names in task.files:
        places = [base / name for name in names for base in (folder, folder / task.name)]
        here = next((path for path in places if path.is_file()), None)
        if here:
            found += 1
            yield str(here)
    if not found:
        wanted = " or ".join(name for names in task.files for name in names)
        raise UsageError(
            f"--tasks: {task.name}: none of its files in {folder}; wanted {wanted} there (--data "
            f"DIR), or {task.name}=FILE; terms: {task.terms}"
        )


def _read(task: Task, files: Sequence[str], asked: Asked) -> Chosen:
    seeds: list[Seed] = []
    sources: list[Source] = []
    notes: list[str] = []
    for file in files:
        found = read(file)
        if task.schemas and found.schema not in task.schemas:
            raise UsageError(
                f"--tasks: {task.name}: {file} is {found.schema}; wanted {', '.join(task.schemas)}"
            )
        seeds += found.seeds
        sources.append(Source(file, sha256(located(file)), found.schema))
        notes += [f"{task.name}: {note}" for note in found.notes]
    if len(files) < len(task.files) and not _both_labels(seeds):
        missing = [names[0] for names in task.files if not {Path(f).name for f in files} & {*names}]
        notes.append(f"{task.name}: without {', '.join(missing)}, which was not found")
    sets = {f"{label}/{task.name}": told for label, told in _labelled(seeds, asked.limit)}
    if asked.limit and sum(map(len, sets.values())) < len(seeds):
        notes.append(
            f"{task.name}: the first {asked.limit} of each label, which is no sample of it"
        )
    plain = not any(source.schema in _WRAPPED for source in sources)
    success = asked.success or task.success
    return Chosen(task, success, sources, sets, list(sets) if plain else [], notes)


def _both_labels(seeds: Sequence[Seed]) -> bool:
    return len({seed.harmful for seed in seeds}) == 2


def _labelled(seeds: Sequence[Seed], limit: int | None) -> Iterator[tuple[str, list[State]]]:
    for label, harmful in (("harmful", True), ("benign", False)):
        told = [seed for seed in seeds if seed.harmful == harmful][:limit]
        if told:
            yield label, [State(seed).deal(Player.ATTACKER, seed.text) for seed in told]
