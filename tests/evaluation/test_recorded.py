"""A recorded game comes back as it was."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.store.results import results_of
from tests.table import HELD, after

from sparring.games.codec import state_of, verdict_json, verdict_of
from sparring.store.folder import RunDir
from sparring.types import Episode, Harm, Player, Seed, State, Status, Verdict

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
texts = st.text(st.characters(exclude_categories=()), max_size=12)


@given(verdicts)
def test_a_verdict_comes_back_from_json_as_it_was_with_nothing_untold_in_it(verdict):
    told = json.loads(json.dumps(verdict_json(verdict)))
    assert None not in told.values()
    assert verdict_of(told) == verdict


@pytest.mark.parametrize("told", [{}, [], {"status": "fine"}, {"status": "ok", "harm": "safe"}, 7])
def test_what_is_no_verdict_is_refused(told):
    with pytest.raises((KeyError, TypeError, ValueError)):
        verdict_of(told)


@given(said=st.lists(texts, min_size=1, max_size=4), sibling=st.integers(0, 2))
def test_a_recorded_game_comes_back_text_for_text_lone_surrogates_too(
    said, sibling, tmp_path_factory
):
    state = State(Seed(said[0], True, "vault", goal=said[-1])).deal(Player.ATTACKER, said[0])
    state = after(state, *said, sibling=sibling)
    run = RunDir(tmp_path_factory.mktemp("run"))
    run.write_exam(results_of(0), {"harmful/plain": [Episode(state.rule(HELD), 0, None)]})
    path = run.folder / "exams" / "round_000000" / "samples.jsonl.gz"
    row = json.loads(gzip.decompress(path.read_bytes()))
    assert state_of(row) == state.rule(HELD)
    assert state_of(row, ruling=None) == state
