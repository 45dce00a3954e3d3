"""A recorded game is read back unchanged from a run's files and an evaluation's samples."""

import gzip
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.store.results import results_of
from tests.table import after

from sparring import Episode, Harm, Player, RunDir, Seed, State, Status, Verdict
from sparring.evals.folder import EvalDir, row_of
from sparring.games.codec import state_of, verdict_json, verdict_of
from sparring.types import UNRULED

flags = st.none() | st.booleans()
verdicts = st.builds(
    Verdict,
    reply_harm=st.none() | st.sampled_from(Harm),
    refused=flags,
    helpful=flags,
    prompt_harmful=flags,
    on_topic=flags,
    score=st.none() | st.floats(1, 5),
    status=st.sampled_from(Status),
)
RULED = verdicts.filter(lambda verdict: verdict != UNRULED)
texts = st.lists(st.text(st.characters(exclude_categories=()), max_size=12), min_size=2, max_size=4)


@given(verdicts)
def test_a_verdict_comes_back_from_json_as_it_was_with_nothing_empty_in_it(verdict):
    row = json.loads(json.dumps(verdict_json(verdict)))
    assert None not in row.values()
    assert verdict_of(row) == verdict


OK = {"status": "ok"}


@pytest.mark.parametrize(
    "row", [{}, [], {"status": "fine"}, OK | {"harm": "safe"}, 7, OK | {"refused": "perhaps"}]
)
def test_what_is_no_verdict_is_refused(row):
    with pytest.raises((KeyError, TypeError, ValueError)):
        verdict_of(row)


@given(texts=texts, sibling=st.integers(0, 2), dealt=st.booleans(), verdict=RULED)
def test_a_game_comes_back_text_for_text_lone_surrogates_too(
    texts, sibling, dealt, verdict, tmp_path_factory
):
    state = State(Seed(texts[0], True, "vault", goal=texts[-1], cluster="doors"))
    for place, text in enumerate(texts):
        if dealt and not place:
            state = state.deal(Player.ATTACKER, text)
        else:
            state = after(state, text, sibling=sibling)
    state = state.rule(verdict)
    folder = tmp_path_factory.mktemp("run")
    RunDir(folder).write_exam(results_of(0), {"harmful/x": [Episode(state, 0, None)]})
    path = folder / "exams" / "round_000000" / "samples.jsonl.gz"
    row = json.loads(gzip.decompress(path.read_bytes()))
    assert state_of(row) == state
    assert state_of(row, ruling=None) == replace(state, rulings=())
    samples = EvalDir(folder).samples
    samples.append([row_of(("m", "harmful/x", 3, 0), state, None)])
    assert [state_of(row) for row in samples.rows()] == [state]
