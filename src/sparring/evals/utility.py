"""Utility beside safety: lm-evaluation-harness on the models of an evaluation (extra lm-eval)."""

import logging
import random
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import yaml

from sparring import packaged
from sparring.evals.folder import EvalDir
from sparring.evals.models import Candidate
from sparring.players.local import LocalPolicy
from sparring.pulse import beat, phase
from sparring.runs.train import Interrupted
from sparring.sandbox.language import Intent, Strategy
from sparring.sandbox.words import REFUSALS
from sparring.sandbox.world import World
from sparring.store.files import Row, dumps, write_atomic
from sparring.types import SparringError, UsageError

TABLE: Mapping[str, Any] = packaged.table("evals/utility.yaml")
DOCUMENTS = 1_000
"""Of each generated task: fewer could not tell two points from chance."""
CHUNK = 64
"""Questions between two signs of life."""


def utility_rates(world: World | None, served: bool) -> list[str]:
    """Return the names of the rates that will be measured, on which gates can be set.

    UsageError for models without weights here, and for an installation without the extra.
    """
    if served:
        raise UsageError(
            "--utility: compares answers by their likelihood and so wants the weights in this "
            "process; leave out --base-url"
        )
    if find_spec("lm_eval") is None:
        raise UsageError("--utility: wants `pip install 'sparring[lm-eval]'`")
    tasks = [*TABLE["sandbox"]] if world else [*TABLE["own"], *TABLE["published"]]
    return [f"utility/{task}" for task in tasks]


def documents(task: str, world: World | None) -> list[Row]:
    """Return the questions of a generated task: the same ones every time, and for every model.

    Each has a `prompt`, `choices`, the place of the right one as `gold`, and a `cluster`.
    """
    rng = random.Random(f"utility/{task}")
    if world:
        intents = [intent for intent in world.language.tuning if not intent.forbidden]
        rounds = islice(cycle(intents), DOCUMENTS)
        return [_answers(world, intent, task == "wrapped_answers", rng) for intent in rounds]
    write = {"agreement": _agreement, "reading": _reading}[task]
    rows: dict[str, Row] = {}
    while len(rows) < DOCUMENTS:
        row = write(rng, TABLE["words"])
        rows.setdefault(f"{row}", {**row, "cluster": f"{len(rows)}"})
    return [*rows.values()]


def _agreement(rng: random.Random, words: Mapping[str, Sequence[str]]) -> Row:
    (subject, nearer), (adjective, complement) = (
        rng.sample(words[k], 2) for k in ("nouns", "adjectives")
    )
    plural, nearer_plural = rng.random() < 0.5, rng.random() < 0.5
    subject, nearer = subject + "s" * plural, nearer + "s" * nearer_plural
    start = f"The {adjective} {subject} {rng.choice(words['relations'])} the {nearer}"
    sentences = [f"{start} {verb} {complement}." for verb in ("is", "are")]
    return {"prompt": "", "choices": sentences, "gold": int(plural)}


def _reading(rng: random.Random, words: Mapping[str, Sequence[str]]) -> Row:
    people, things, places = (rng.sample(words[k], 3) for k in ("people", "things", "places"))
    facts = [
        f"{who} keeps the {what} in the {where}."
        for who, what, where in zip(people, things, places, strict=True)
    ]
    gold = rng.randrange(3)
    question = f"Where does {people[gold]} keep the {things[gold]}?"
    return {"prompt": f"{' '.join(facts)} {question}", "choices": places, "gold": gold}


def _answers(world: World, intent: Intent, wrapped: bool, rng: random.Random) -> Row:
    """One request; of the wrong choices two are half right, and one refuses."""
    language, wording = world.language, rng.random()
    verb = rng.choice([word for word in language.tool if word != intent.verb])
    noun = rng.choice([word for word in language.key if word != intent.object])
    meant = [intent, Intent(intent.verb, noun), Intent(verb, intent.object)]
    choices = [language.answer(each, random.Random(wording)) for each in meant]
    right, choices = choices[0], [*choices, rng.choice(REFUSALS)]
    rng.shuffle(choices)
    strategy = world.drawn(rng) if wrapped else Strategy()
    return {
        "prompt": language.request(intent, strategy, rng),
        "choices": choices,
        "gold": choices.index(right),
        "cluster": intent.id,
    }


def measure_utility(
    models: Sequence[Candidate], world: World | None, folder: EvalDir, received: Sequence[int]
) -> list[str]:
    """Ask every model every task that is not on disk; return notes for people.

    Interrupted after a signal was received. What was asked of a task is kept once it is whole.
    """
    own: Mapping[str, Mapping[str, Any]] = TABLE["sandbox" if world else "own"]
    place, there = folder.path("utility"), {(r["model"], r["task"]) for r in folder.utility.rows()}
    names = [*own] if world else [*own, *TABLE["published"]]
    if all((model.name, name) in there for model in models for name in names):
        return []
    for name, settings in own.items():
        _write_task(place, name, settings, documents(name, world))
    tasks, notes = _loaded(names, place)
    for model in models:
        due = [name for name in tasks if (model.name, name) not in there]
        policy = model.load() if due else None
        for name in due:
            assert isinstance(policy, LocalPolicy)  # `utility_rates` refused the others
            chat = bool(own.get(name, {}).get("chat"))
            answers = _scored(policy, {name: tasks[name]}, f"{model.name}, {name}", chat, received)
            folder.utility.append([{"model": model.name, "task": name, **answers}])
    return notes


def _write_task(place: Path, task: str, settings: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write a task as lm-evaluation-harness reads it, with its questions beside it."""
    place.mkdir(exist_ok=True)
    data = place / f"{task}.jsonl"
    write_atomic(data, b"".join(map(dumps, rows)))
    config = {key: value for key, value in settings.items() if key != "chat"}
    config |= {"task": task, "dataset_path": "json", "test_split": "test"}
    config |= {"dataset_kwargs": {"data_files": {"test": str(data.resolve())}}}
    write_atomic(place / f"{task}.yaml", yaml.safe_dump(config).encode())


def _loaded(names: Sequence[str], place: Path) -> tuple[dict[str, Any], list[str]]:
    """Return lm-evaluation-harness' tasks with their data, and notes about those without."""
    beat("loading lm-evaluation-harness", 0, 1)
    from datasets import disable_progress_bars
    from lm_eval.api import task as building
    from lm_eval.tasks import TaskManager, get_task_dict
    from tqdm import tqdm

    disable_progress_bars()
    building.tqdm = partial(tqdm, disable=True)  # both would draw bars of their own over ours
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    tasks, notes = dict[str, Any](), list[str]()
    for number, name in enumerate(names):
        beat(f"loading {name}", number, len(names))
        ours = (place / f"{name}.yaml").is_file()
        manager = TaskManager(include_path=str(place), include_defaults=not ours)
        try:
            tasks |= get_task_dict([name], manager)
        except Exception as error:  # what a hub that does not answer raises has many names
            if ours:
                raise
            reason = str(error).partition("\n")[0]
            notes.append(f"--utility: {name} was left out, its data cannot be had: {reason:.200}")
    return tasks, notes


def _scored(
    policy: LocalPolicy, task: Mapping[str, Any], title: str, chat: bool, received: Sequence[int]
) -> dict[str, Any]:
    """Ask a model one task: which questions it answered rightly, and the cluster of each."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    class Watched(HFLM):  # type: ignore[misc]
        """lm-evaluation-harness' model, which shows how far it is and ends at a signal."""

        def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[Any]:
            return self._parts(super().loglikelihood, requests)

        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[Any]:
            self.batch_size_per_gpu = CHUNK  # its logits are those of one place only
            return self._parts(super().generate_until, requests)

        def _parts(self, ask: Any, requests: Any) -> list[Any]:
            answers: list[Any] = []
            for start in range(0, len(requests), CHUNK):
                phase(title, start, len(requests))
                if received:
                    raise Interrupted(received[0])
                answers += ask(requests[start : start + CHUNK], disable_tqdm=True)
            phase(title, len(requests), len(requests))
            return answers

    beat(title, 0, 1)
    tokenizer, template = policy.chat.tokenizer, dict(policy.chat.template_kwargs)
    with policy.weights.merged() as model:
        watched = Watched(
            pretrained=model, tokenizer=tokenizer, batch_size=16, chat_template_args=template
        )
        results = lm_eval.evaluate(
            watched, dict(task), apply_chat_template=chat, bootstrap_iters=0, verbosity="ERROR"
        )
    samples = [row for rows in results["samples"].values() for row in rows] if results else []
    scores = {row["doc_id"]: row.get("acc", row.get("exact_match")) for row in reversed(samples)}
    if not scores or None in scores.values():
        raise SparringError(f"--utility: lm-evaluation-harness scored no question of {title}")
    clusters = {row["doc_id"]: str(row["doc"].get("cluster", row["doc_id"])) for row in samples}
    return {
        "lm_eval": version("lm-eval"),
        "correct": "".join(str(int(scores[k] > 0)) for k in sorted(scores)),
        "clusters": [clusters[k] for k in sorted(scores)],
    }
