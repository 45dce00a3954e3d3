"""From files to attack pools, and other demonstrations; errors name the file and the line."""

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from sparring.data.families import recognise
from sparring.data.readers import seed_rows
from sparring.data.rows import Record, jsonl, located, records
from sparring.games.game import Briefs, answer_of, tagged
from sparring.types import Demo, Message, UsageError

FORM = "<think>…</think><answer>…</answer>"
_TABLES = (".json", ".csv", ".tsv", ".parquet")
_THOUGHT = "I ask for it in another way."
"""What the attacker thinks before a rewrite that was published without a thought."""


def read_pool(path: Path, briefs: Briefs | None = None) -> list[Demo]:
    """An attack pool: JSONL of {"messages": [{role, content}, …]} ending with the assistant.

    A reply that goes on after what is shown has `"finish_reason": "length"` beside its messages.
    LLaMA-Factory's two layouts are read as well, also from a JSON list (`_messages`). With `briefs`
    so are WildJailbreak's files, without thoughts: a demonstration rewrites `vanilla`.
    """
    demos = [demo for _, demo in _demos(path, briefs)]
    if not demos:
        raise UsageError(f"{path}: no rows")
    return demos


def is_pool(source: str) -> bool:
    """Whether a file's first row is a conversation in one of the layouts that `read_pool` reads."""
    path = located(source)
    fields = next(records(path), ("", {}))[1].keys()
    pool = "messages" in fields or "conversations" in fields or {"instruction", "output"} <= fields
    return pool and path.suffix in (".json", ".jsonl")


def pool_families(path: Path) -> Counter[str]:
    """How many rewrites a pool has of each family, by what it looks like.

    UsageError names the first row whose reply is not of the FORM that an attacker is warmed up on.
    """
    counts = Counter[str]()
    for where, demo in _demos(path, None):
        if (attack := answer_of(demo.reply)) is None:
            raise UsageError(
                f"{where}: the assistant's reply is not {FORM}, so this is no attack pool "
                "(attacker.warm_start), though it may be chat (defender.warm_start)"
            )
        counts[recognise(demo.observation[-1].content, attack)] += 1
    return counts


def _demos(path: Path, briefs: Briefs | None) -> Iterator[tuple[str, Demo]]:
    rows = records(path) if path.suffix in _TABLES else jsonl(path)
    first = next(rows, None)
    if briefs and first and "adversarial" in first[1]:
        _, seeds, _ = seed_rows(path)
        for where, _, seed in seeds:
            if seed.goal:
                request = (Message("system", briefs.of(seed)), Message("user", seed.goal))
                yield where, Demo(request, tagged(_THOUGHT, seed.text))
        return
    for where, record in chain([first] if first else [], rows):
        messages = _dialogue(record)
        if not messages:
            raise UsageError(
                f'{where}: wanted {{"messages": [{{"role", "content"}}, …]}} with user and '
                "assistant in turn, after a system message or none, up to the assistant's reply, "
                "or LLaMA-Factory's instruction, input, output and system, or its conversations"
            )
        *before, last = messages
        yield where, Demo(tuple(before), last.content, record.get("finish_reason") != "length")


_SPEAKERS = {"human": "user", "gpt": "assistant"}


def _messages(record: Record) -> Any:
    """The messages of a pool's row: its own, or those of LLaMA-Factory's alpaca and sharegpt."""
    if "conversations" in record:
        pairs = [(turn.get("from"), turn.get("value")) for turn in record["conversations"]]
    elif "output" in record:
        request = "\n".join(record[n] for n in ("instruction", "input") if record.get(n))
        past = [*chain.from_iterable(record.get("history") or ()), request, record["output"]]
        pairs = [(("human", "gpt")[place % 2], text) for place, text in enumerate(past)]
    else:
        return record.get("messages")
    system = [("system", record["system"])] if record.get("system") else []
    return [{"role": _SPEAKERS.get(r, r), "content": text} for r, text in [*system, *pairs]]


_MESSAGES = TypeAdapter(list[Message])


def _dialogue(record: Record) -> list[Message]:
    """A pool's row as every chat template takes it: [system,] user, assistant, …; else none."""
    try:
        messages = _MESSAGES.validate_python(_messages(record))
    except (AttributeError, TypeError, ValueError):
        return []
    roles = [message.role for message in messages]
    turns = roles[roles[:1] == ["system"] :]
    alternating = turns == ["user", "assistant"] * (len(turns) // 2)
    return messages if turns and alternating else []
