"""A run's folder with words of the test's choice in every text field, written without a game."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Say = Callable[[str], str]
"""The text of a field, by the field's name; each field asks once for each text it holds."""


@dataclass(frozen=True)
class Written:
    """What is written: `names` stand for families, strategies and the like; `say` for all else."""

    say: Say = lambda where: f"some {where}"
    names: tuple[str, ...] = ("tale", "lullaby", "riddle")
    rounds: int = 40
    every: int = 10
    config: str = "recipe: magic\n"

    def at(self, folder: Path) -> Path:
        """Write the run into `folder`."""
        (folder / "exams").mkdir(parents=True)
        (folder / "config.yaml").write_bytes(self.config.encode("utf-8", "surrogatepass"))
        status = self.say("status")
        dump(
            folder / "run.json", {"status": status, "time": self.say("time"), "rounds": self.rounds}
        )
        versions = {self.say("library"): self.say("version")}
        machine = {"python": self.say("python"), "system": self.say("env"), "cpus": 2}
        dump(folder / "env.json", {**machine, "versions": versions})
        for done in range(0, self.rounds + 1, self.every):
            place = folder / "exams" / f"round_{done:06d}"
            dump(place / "results.json", self._results(done))
            pack(place / "samples.jsonl.gz", self.samples(done))
        numbers = ["0", *self.names]
        matrix = {row: {column: rate(0.375, 0) for column in numbers} for row in numbers}
        sides = {"rows": status, "columns": status}
        dump(folder / "exams" / "crossplay" / "results.json", {**sides, "asr": matrix})
        lines = [json.dumps(self._round(number)) for number in range(self.rounds)]
        (folder / "rounds.jsonl").write_text("".join(f"{line}\n" for line in lines))
        pack(
            folder / "transcripts" / "round_000019.jsonl.gz",
            [self._game(name, 0, True) for name in self.names],
        )
        self._evidence(folder / "evidence")
        return folder

    def _results(self, done: int) -> dict[str, Any]:
        measured = rates(self.names, 0.8125 - 0.75 * done / self.rounds, self.say)
        other = {"name": self.say("other judge"), "caveat": self.say("other caveat")}
        return {
            "rounds": done,
            "rates": measured,
            "judge": {"name": self.say("judge"), "caveat": self.say("caveat")},
            "held_out_judge": {**other, "rates": measured},
            "success": self.say("success"),
        }

    def samples(self, done: int) -> Iterable[dict[str, Any]]:
        for place, name in enumerate(self.names):
            yield self._game(name, 1, done / self.rounds <= (place + 1) / len(self.names))

    def _game(self, name: str, dealt: int, won: bool) -> dict[str, Any]:
        attack = self.say("attack")
        text = attack if dealt else f"<think> hm </think><answer> {attack} </answer>"
        seed = {"text": self.say("seed"), "harmful": True, "id": self.say("id")}
        moves = [
            {"player": "attacker", "sibling": 0, "text": text},
            {"player": "defender", "sibling": 0, "text": self.say("reply")},
        ]
        verdict = {"reply_harm": "unsafe" if won else "safe", "on_topic": True, "status": "ok"}
        return {
            **{"set": f"harmful/{name}", "opening": 0, "returns": None, "dealt": dealt},
            **{"seed": seed | {"category": self.say("category")}},
            **{"moves": moves, "verdict": verdict},
        }

    def _round(self, number: int) -> dict[str, Any]:
        wave = (number * 7 % 20) / 20
        metrics = {
            **dict.fromkeys(("asr", "over_refusal", "correct", "parsed"), 0.25 + 0.5 * wave),
            **{"faithful": 0.875, "diversity": 0.5, "self_bleu": 0.25, "strategy_entropy": 1.5},
            **{"unscored": 0.0625, "replay/size": number, "replay/asleep": number // 2},
            **{"replay/visits": 2 * number, "replay/share": 0.25},
            **({"league/attacker": number // 3} if number % 3 == 2 else {}),
            **{f"strategy/{name}": 1 / len(self.names) for name in self.names},
            **{"attacker/tokens": 100, "judge/calls": 8},
        }
        learns = ["attacker" if number // 10 % 2 else "defender"]
        return {"round": number, "learns": learns, "metrics": metrics, "seconds": {"play": 1.5}}

    def _evidence(self, folder: Path) -> None:
        curve = {"steps": [0, 20, 40], "asr": [rate(v, 0) for v in (0.0625, 0.25, 0.4375)]}
        attackers = {name: {**curve, "tried": self.say("tried")} for name in self.names}
        attackers["listed"] = {"steps": [0], "asr": [rate(0.125, 0)], "tried": self.say("tried")}
        budget, worst = {self.say("budget"): 40}, self.say("worst")
        measured = {"rounds": self.rounds, "rng_seed": 0, "budget": budget, "worst": worst}
        dump(folder / "exploit.json", {**measured, "attackers": attackers})
        reached = {"1": rate(0.125, 0), "32": rate(0.625, 0)}
        spent = {"queries": 640, "seconds": 12.5}
        family = {"about": self.say("about"), "asr": reached, **spent}
        dump(
            folder / "attack.json",
            {
                "defender": {"run": self.say("defender")},
                "rng_seed": 0,
                "effort": {"queries": 32},
                "families": dict.fromkeys(self.names, family),
                "left_out": {self.names[0]: self.say("left out")},
            },
        )
        counts = {"n": 640, "failures": 3, "unscored": 0, "clusters": 320}
        limit = {**counts, "effective_n": 212.5, "upper": 0.0417}
        stated = {"method": self.say("method"), "caveat": self.say("not"), "upper": 0.0417}
        families = {"families": dict.fromkeys(self.names, limit), "confidence": 0.95, **stated}
        dump(folder / "bound.json", {"rounds": self.rounds, **families})


def rates(names: Iterable[str], value: float, say: Say) -> dict[str, Any]:
    """Rates by metric and family, some of them with unscored items."""
    metrics = {"asr": value, "over_refusal": 0.0625, "correct": 0.9375}
    return {
        f"{metric}/{name}": rate(at, place % 3, say("cause"))
        for metric, at in metrics.items()
        for place, name in enumerate(names)
    }


def rate(value: float, unscored: int, cause: str = "timeout") -> dict[str, Any]:
    """As `Rate.to_json` writes it."""
    return {
        "value": value,
        "ci95": [max(0.0, value - 0.0625), min(1.0, value + 0.0625)],
        "method": "wilson",
        "n_total": 64,
        "n_scored": 64 - unscored,
        "clusters": 64,
        "bounds": [max(0.0, value - 0.03125), min(1.0, value + 0.03125)],
        "unscored": {cause: unscored} if unscored else {},
    }


def dump(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def amend(path: Path, **more: object) -> None:
    """Give a JSON file some more fields, or other values of them."""
    dump(path, {**json.loads(path.read_bytes()), **more})


def flip(path: Path) -> Path:
    """Flip one bit in the middle of a file."""
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.write_bytes(raw)
    return path


def pack(path: Path, rows: Iterable[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
