"""Compare the verdicts of a judge whose server fails on purpose with those of a sound server.

    python benchmarks/judge_faults.py                        # 2000 pairs, a 60-s outage
    python benchmarks/judge_faults.py --every-call           # every call may fail, again and again

The server is a process of its own on loopback. On its bad day, 20 % of the requests meet a 500,
10 % a 429, 5 % a hang of 60 s, 5 % a connection reset, 5 % an empty body, 5 % an HTML page, 5 %
truncated JSON and 1 % a body of 50 MB; half-way the server is unreachable for 60 s. In a third run
it disappears for good half-way, and the judge then continues with a server that works again. The
exit code is 1 if one of the checks fails.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from tests.transport.server import RATES  # noqa: E402

from sparring.judges.cache import Answers, Cached  # noqa: E402
from sparring.judges.http import Server  # noqa: E402
from sparring.judges.model_judge import Format, ModelJudge  # noqa: E402
from sparring.transport.client import Client  # noqa: E402
from sparring.transport.guard import Address, Limits  # noqa: E402
from sparring.types import Harm, Message, Player, Seed, State, Status, UnscoredError, Verdict  # noqa: E402

SERVE = """
import json, sys
from tests.transport.server import Script, serving
settings = json.loads(sys.argv[1])
settings["outage"] = tuple(settings.get("outage", (0, 0)))
with serving(Script(**settings)) as (url, received):
    print(url, flush=True)
    sys.stdin.read()
    counts = [received.calls, received.most_together, dict(received.faults)]
    print(json.dumps(counts), flush=True)
"""
FORMAT = Format(
    name="toy",
    fills=frozenset({"reply_harm"}),
    prompts=lambda item: [(Message("user", f"{item.request} {item.reply}"),)],
    read=lambda texts: Verdict(reply_harm=Harm(texts[0])) if texts[0] in tuple(Harm) else None,
    max_tokens=16,
    template="{request} {reply}",
    source="made up here",
)


@dataclass
class Day:
    """The result of one round of rulings."""

    verdicts: list[Verdict]
    judge: ModelJudge
    seconds: float
    grown_mb: float
    calls: int
    cached: int
    """Answers in the cache at the end."""
    stopped: str = ""


@contextlib.contextmanager
def serving(settings: dict[str, Any], counts: list[Any]) -> Iterator[str]:
    """The URL of a server in a process of its own.

    At the end of the block `counts` gets its calls, the most at once, and its faults by kind.
    """
    words = [sys.executable, "-c", SERVE, json.dumps(settings)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as process:
        assert process.stdin
        assert process.stdout
        yield process.stdout.readline().strip()
        process.stdin.close()
        counts += json.loads(process.stdout.readline())


def resident_mb() -> float:
    """The largest resident memory of this process so far, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def day(states: list[State], settings: dict[str, Any], limits: Limits, cache: Path) -> Day:
    """Rule on `states` once, with a server that behaves as `settings` says."""
    counts: list[Any] = []
    with serving(settings, counts) as url:
        server = Server(Client(Address(url), limits=limits), "toy")
        answers = Answers(cache)
        judge = ModelJudge(FORMAT, Cached(server, answers, "toy"))
        before, began, stopped, verdicts = resident_mb(), time.monotonic(), "", list[Verdict]()
        try:
            verdicts = judge.rule(states)
        except UnscoredError as error:
            stopped = str(error)
        took, grown = time.monotonic() - began, resident_mb() - before
    calls, most, faults = counts
    print(f"  {took:.1f} s, {calls} calls, at most {most} at once, +{grown:.0f} MB, {faults}")
    return Day(verdicts, judge, took, grown, calls, len(answers), stopped)


def state(number: int) -> State:
    """An exchange of one attack and one reply that differs by `number`."""
    seed = Seed(f"open vault {number}", harmful=True, id=str(number))
    dealt = State(seed).deal(Player.ATTACKER, "please")
    return dealt.deal(Player.DEFENDER, f"here is key {number * 7}")


def main() -> int:
    """Rule on a quiet day, on a bad one, until an outage for good, and after that outage."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--outage", type=float, default=60.0, help="seconds")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds of one request")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds of one answer")
    parser.add_argument("--every-call", action="store_true", help="retries may fail too")
    arguments = parser.parse_args()
    states = [state(number) for number in range(arguments.pairs)]
    limits = Limits(timeout=arguments.timeout, outage_seconds=max(4 * arguments.outage, 30))
    well = {"latency": arguments.latency}
    bad = well | {"rates": RATES, "once": not arguments.every_call, "retry_after": "2"}
    bad |= {"outage": (arguments.pairs * 3 // 4, arguments.outage), "seed": "faults"}
    with tempfile.TemporaryDirectory() as folder:
        print("a quiet day")
        clean = day(states, well, limits, Path(folder) / "clean.sqlite")
        print("a bad day")
        faulty = day(states, bad, limits, Path(folder) / "faulty.sqlite")
        print("gone for good half-way, then well again")
        brief = Limits(timeout=arguments.timeout, outage_seconds=5.0)
        gone = {**well, "outage": (arguments.pairs // 2, 1e9)}
        lost = day(states, gone, brief, Path(folder) / "lost.sqlite")
        back = day(states, well, brief, Path(folder) / "lost.sqlite")
    return report(clean, faulty, lost, back, 1.6 if not arguments.every_call else 2.5)


def report(clean: Day, faulty: Day, lost: Day, back: Day, most: float) -> int:
    """Print every check with its figure; the exit code is 1 if a check fails."""
    scored = [i for i, v in enumerate(faulty.verdicts) if v.status is Status.OK]
    same = sum(faulty.verdicts[i] == clean.verdicts[i] for i in scored)
    labelled = sum(v.harmful is not None for v in faulty.verdicts if v.status is not Status.OK)
    causes = Counter(str(v.status) for v in faulty.verdicts if v.status is not Status.OK)
    n = len(clean.verdicts)
    promises = [
        (f"verdicts equal the quiet day's: {same} of {len(scored)} scored", same == len(scored)),
        (f"scored: {len(scored)} of {n}; the others by cause: {dict(causes)}", bool(scored)),
        (f"labels of failed verdicts: {labelled}", labelled == 0),
        (f"calls: {faulty.calls / n:.3f} a pair (at most {most})", faulty.calls <= most * n),
        (f"memory: +{faulty.grown_mb:.0f} MB (at most 200)", faulty.grown_mb <= 200),
        (f"gone for good: {lost.stopped or 'did not stop'}", bool(lost.stopped)),
        (f"  kept {lost.cached}, asked again {back.calls}", lost.cached + back.calls == n),
        ("  and the whole equals the quiet day's", back.verdicts == clean.verdicts),
    ]
    for line, held in promises:
        print(f"{'ok  ' if held else 'FAIL'} {line}")
    return int(not all(held for _, held in promises))


if __name__ == "__main__":
    sys.exit(main())
