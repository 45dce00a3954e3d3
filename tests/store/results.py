"""Minimal results of an exam."""

from collections.abc import Mapping

from sparring.stats.rates import Rate
from sparring.store.records import ExamResults, JudgeRecord


def results_of(rounds: int, rates: Mapping[str, Rate] | None = None) -> ExamResults:
    return ExamResults(rounds=rounds, rates=dict(rates or {}), judge=JudgeRecord(name="a judge"))
