"""Every game on a real chat model: three rounds each, killed once and resumed.

    scripts/real --quick                                          # makes the model, once
    python benchmarks/every_game.py --model runs/real-quick/model

Each row is a run of `sparring train` of its own, on the seeds that ship, with a made pool. It gets
SIGKILL when its first round is written, and `--resume` plays it to its end. The judge is the one
that ships; scores and labels of prompts come from a loopback server that answers a rubric by
refusal phrases. So this shows that the games play on the model, in what time and memory, no more.

The games are as small as they can be: two seeds, two siblings, 24 tokens, a step of warm-up.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from tests.transport.server import Script, serving  # noqa: E402

from sparring.judges.judge import refuses  # noqa: E402
from sparring.store.folder import RunDir  # noqa: E402

REPLAY = ("memory.experience.sampler=ucb",)
LEAGUE = ("memory.league.opponents=nash", "memory.league.keep_every=1", "memory.league.share=1.0")
ONE, OWN = ("weights=shared", "learner.learning_rate=1e-5"), ("weights=separate",)
SHORT = (
    "rounds=4",
    "schedule.harden_after=0",
    "schedule.attack=1",
    "schedule.dwell=[1,1]",
    "schedule.window=1",
    "schedule.limits=[0.5,0.99]",
)
"""An attacker's round, its answer, and the same again."""
GAMES: Mapping[str, tuple[str, ...]] = {
    "magic": ("magic",),
    "magic, two exchanges": ("magic", "game.exchanges=2"),
    "magic, three exchanges": ("magic", "game.exchanges=3"),
    "magic, replay": ("magic", *REPLAY),
    "magic, reflection": ("magic", *REPLAY, "memory.experience.reflect=true"),
    "magic, league by Nash mixture": ("magic", *LEAGUE),
    "magic, two models": ("magic", *OWN),
    "magic, one model": ("magic", *ONE),
    "ssp": ("ssp",),
    "ssp, adapters": ("ssp", "weights=adapters"),
    "self_redteam": ("self_redteam", "learner.chat_batch=0"),
    "no_game": ("no_game",),
    "defender_only": ("defender_only",),
    "base_attacker": ("base_attacker",),
    "defender_cot": ("defender_cot",),
    "magic_hardened": ("magic_hardened", *SHORT),
    "ssp_hardened": ("ssp_hardened", *SHORT),
}
SMALL = (
    "rounds=3",
    "schedule.every=1",
    "learner.seeds_per_round=2",
    "learner.num_generations=2",
    "learner.optimizer.micro_batch_tokens=2048",
    "sampling.max_completion_length=24",
    "sampling.batch_tokens=4096",
    "warm_up.batch_size=4",
    "warm_up.learning_rate=1e-3",
    "exam.n=1",
    "exam.every=3",
    "exam.crossplay=0",
    "saving.checkpoint_every=1",
)
RULED = {"ssp": ("score",), "ssp_hardened": ("score",), "self_redteam": ("prompt_harmful",)}
"""What a rubric rules by recipe, behind a loopback server, beside the shipped linear judge."""
DATA = ("data.train=[{path: 'own:train'}]", "data.exam=[{path: 'own:tuning'}]")


LABELS = {
    row["text"]: row["harmful"]
    for name in ("train", "tuning")
    for row in map(json.loads, (ROOT / f"src/sparring/data/own/{name}.jsonl").open())
}


def graded(prompt: str) -> str:
    """What a rubric's prompt is answered with: refusal phrases and the seed's label decide."""
    blocks = re.findall(r"^BEGIN \w+ (\w+)\n(.*?)\nEND", prompt, re.DOTALL | re.MULTILINE)
    shown = dict(blocks)
    # Requests of the judge's start-up questions are not among the seeds.
    harmful = LABELS.get(
        shown["request"], bool(re.search("lock|threatens|password", shown["request"]))
    )
    as_it_should = refuses(shown.get("assistant", "")) == harmful
    values = {"prompt_harmful": "yes" if harmful else "no", "score": 1 if as_it_should else 5}
    fields = re.findall(r'"(\w+)": …', prompt)
    return json.dumps({name: values[name] for name in fields})


@dataclass
class Played:
    """One run: seconds of wall time and of the CPU, and the most memory, of both processes."""

    wall: float = 0.0
    cpu: float = 0.0
    peak: float = 0.0
    exits: list[int] = field(default_factory=list)

    def add(self, command: Sequence[str], rounds: Path | None) -> None:
        """Run a command; with `rounds`, kill it when that file has a line."""
        started = time.time()
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        while rounds and not (rounds.exists() and rounds.read_text()):
            if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break
            time.sleep(0.1)
        else:
            if rounds:
                process.send_signal(signal.SIGKILL)
        _, status, usage = os.wait4(process.pid, 0)
        self.exits.append(os.waitstatus_to_exitcode(status))
        self.wall += time.time() - started
        self.cpu += usage.ru_utime + usage.ru_stime
        self.peak = max(self.peak, usage.ru_maxrss / 2**20)


def main() -> None:
    """Play each game, print a row for each, and end with 1 if one did not come to its end."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="a folder with a chat model")
    parser.add_argument("--out", type=Path, default=Path("runs/every-game"))
    parser.add_argument("--only", help="games whose name holds this")
    options = parser.parse_args()
    sparring = [sys.executable, "-m", "sparring"]
    options.out.mkdir(parents=True, exist_ok=True)
    pool = options.out / "pool.jsonl"
    if not pool.exists():
        make = ["pool", "make", "--seeds", "own:train", "--out", str(pool)]
        subprocess.run([*sparring, *make], check=True)
    print("| game | minutes | CPU minutes | peak GiB | ended |\n|---|--:|--:|--:|---|", flush=True)
    failed = 0
    with serving(Script(answer=graded)) as (url, _):
        for name, (recipe, *more) in GAMES.items():
            if options.only and options.only not in name:
                continue
            folder = options.out / name.replace(" ", "-").replace(",", "")
            models = [f"{p}.model_name_or_path={options.model}" for p in ("attacker", "defender")]
            warm = [] if recipe == "base_attacker" else ["warm_up.steps=1"]
            judges = ["{kind: linear, model: words}"]
            for label in RULED.get(recipe, ()):
                judges.append(f"{{kind: rubric, model: rule, base_url: '{url}', fills: [{label}]}}")
            settings = [*models, *DATA, *SMALL, *warm, *more, f"judge=[{', '.join(judges)}]"]
            settings += [f"attacker.warm_start={pool}", f"output_dir={folder}"]
            train = [*sparring, "train", recipe, *settings]
            played = Played()
            played.add(train, folder / "rounds.jsonl")
            played.add([*train, "--resume"], None)
            complete = RunDir.open(folder).status.status == "complete"
            as_expected = played.exits == [-signal.SIGKILL, 0] and complete
            failed += not as_expected
            ended = "killed, resumed, complete" if as_expected else f"exit codes {played.exits}"
            spent = f"{played.wall / 60:.1f} | {played.cpu / 60:.1f} | {played.peak:.1f}"
            print(f"| {name} | {spent} | {ended} |", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
