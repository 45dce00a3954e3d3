"""What becomes of an evaluation's samples: results.json, lines for people, limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.evals.calibrate import Calibration
from sparring.evals.folder import EvalDir
from sparring.evals.logs import write_inspect, write_lm_eval
from sparring.evals.results import Measured, limited, measured, of_judge, rates_of, results
from sparring.evals.sheet import Sheet, check_unscored, parsed, sheet_of
from sparring.stats.correction import TRANSFER
from sparring.types import CorruptError

_BESIDE = "  without the judge's errors"
WRITERS = {"inspect": write_inspect, "lm-eval": write_lm_eval}
"""Other harnesses' logs, by the name of `--log-format`."""


@dataclass(frozen=True)
class Finished:
    """An evaluation as it was measured from what is on disk."""

    folder: EvalDir
    asked: dict[str, Any]
    sheet: Sheet
    measured: Sequence[Measured]

    @property
    def models(self) -> list[str]:
        return [str(card["name"]) for card in self.asked["models"]]

    @property
    def caveat(self) -> str:
        """What must stand beside the numbers."""
        told = [str(self.asked["judge"]["caveat"])]
        told += [TRANSFER] if any(one.corrected for one in self.measured) else []
        return " ".join(text for text in told if text)

    def lines(self) -> Iterator[str]:
        """A block for each model: every rate, and what stands beside it."""
        for model in self.models:
            if len(self.models) > 1:
                yield model
            for one in self.measured:
                if one.model == model:
                    yield from _lines(one)

    def summary(self) -> dict[str, Any]:
        """For machines: `rates` are those of the last model, the newest candidate."""
        rates = {
            model: {k: v.to_json() for k, v in rates_of(self.measured, model).items()}
            for model in self.models
        }
        judge = self.asked["judge"]
        return {
            "rates": rates[self.models[-1]],
            "judge": {"name": judge["name"], "caveat": judge["caveat"]},
            "revision": self.asked["models"][-1].get("revision"),
            "models": rates,
            "paired": {
                model: {
                    one.told.name: one.paired.to_json()
                    for one in self.measured
                    if one.model == model and one.paired
                }
                for model in self.models[1:]
            },
            "folder": str(self.folder.folder),
            "status": self.folder.status,
        }

    def check(self, limits: Sequence[str], most_unscored: float) -> None:
        """UnscoredError or GateError; the base beside its adapters is held to no limit."""
        cards = self.asked["models"]
        adapters = [card for card in cards if card.get("adapter")]
        for card in cards:
            check_unscored(rates_of(self.measured, card["name"]).values(), most_unscored)
        for card in adapters or cards:
            told = limited(self.measured, card["name"])
            for limit in parsed(limits, list(told)):
                limit.check(told)


def _lines(one: Measured) -> Iterator[str]:
    yield f"{one.told.name:36s} {one.rate}"
    for at in one.at_k[1:]:
        yield f"{f'  at least once in {at.k}':36s} {at}"
    if one.paired:
        yield f"{'  minus the first model':36s} {one.paired}"
    if one.corrected:
        yield f"{_BESIDE:36s} {one.corrected}"
    if one.second:
        yield f"{'  second judge':36s} {one.second.second}{one.second.flag}"


def finished(path: Path, known: Sequence[Calibration] = ()) -> Finished:
    """Measure what is on disk, and write results.json from it alone."""
    folder = EvalDir(path)
    asked = folder.asked
    try:
        models = [str(card["name"]) for card in asked["models"]]
        judge = str(asked["judge"]["name"])
        sheet = sheet_of(asked["sheet"])
    except (LookupError, TypeError) as error:
        raise CorruptError(f"{path / 'eval.json'}: is not what was written: {error!r}") from error
    told = measured(sheet, models, folder.samples.rows(), of_judge(judge, known))
    folder.write_results(results(asked, sheet, told))
    return Finished(folder, asked, sheet, told)


def logged(told: Finished, formats: Sequence[str]) -> list[Path]:
    """Logs in other harnesses' formats, from the same samples."""
    rows = list(told.folder.samples.rows()) if formats else []
    return [
        path
        for name in formats
        for path in WRITERS[name](told.folder, told.asked, told.measured, rows)
    ]
