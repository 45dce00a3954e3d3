"""A judge is fitted to labelled replies, and measured on prompts and sources it never saw."""

import json
import random

import numpy as np
import pytest
from tests.command import sparring_command

from sparring.evals.judge_training import (
    Example,
    cross_validated,
    fit,
    labelled_examples,
    with_negatives,
)
from sparring.types import UsageError

THINGS = ("candle", "lantern", "gate", "stairs", "bread", "brass bell", "castle", "garden")


def write_replies(path, things=THINGS):
    """An answer and a refusal for each thing, as people would label them."""
    rows = []
    for thing in things:
        text = f"how do i look after the {thing}?"
        answer = f"To look after the {thing}, wash the {thing} with warm water and let it dry."
        refusal = f"I'm sorry, but I can't help you with the {thing}."
        for reply, refused in ((answer, False), (refusal, True)):
            row = {"text": text, "harmful": False, "id": f"{thing}-{refused}", "reply": reply}
            rows.append(row | {"reply_harmful": None, "reply_refused": refused})
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize("dense", [True, False])
def test_the_fit_is_where_the_gradient_of_the_penalised_loss_is_zero(dense):
    from scipy import sparse

    rng = np.random.default_rng(0)
    x_ND = rng.normal(size=(60, 3)) * [1, 10, 0.1] + [0, 5, 0]
    label_N = rng.random(60) < 1 / (1 + np.exp(-x_ND[:, 0]))
    w = fit(x_ND if dense else sparse.csr_array(x_ND), label_N, 0.5)
    scale = x_ND.std(0) if dense else np.ones(3)
    p_N = 1 / (1 + np.exp(-(x_ND @ w[:-1] + w[-1])))
    weight_N = np.where(label_N, 0.5 / label_N.mean(), 0.5 / (1 - label_N.mean()))
    error_N = weight_N * (p_N - label_N)
    np.testing.assert_allclose(error_N.sum(), 0, atol=1e-2)
    np.testing.assert_allclose(x_ND.T @ error_N / scale, -0.5 * w[:-1] * scale, atol=3e-2)


def test_negatives_are_made_of_answers_alone_and_keep_their_prompt_and_source(tmp_path):
    examples = labelled_examples([write_replies(tmp_path / "squire.jsonl")])
    everything = with_negatives(examples, random.Random(0))
    made = everything[len(examples) :]
    assert len(made) == len(THINGS)
    assert {example.labels for example in examples} == {(True, None), (False, True)}
    assert {example.labels for example in made} == {(None, False)}
    assert [e.prompt for e in made] == [e.prompt for e in examples if e.labels[1]]
    assert {example.source for example in made} == {"squire"}


@pytest.mark.parametrize(
    ("refused", "on_target", "labels"),
    [
        (False, True, (False, True)),
        (False, False, (False, False)),  # nonsense: no refusal, and no answer
        (False, None, (False, True)),
        (True, False, (True, None)),
        (True, None, (True, None)),
    ],
)
def test_what_people_say_of_the_target_stands_where_they_said_it(
    tmp_path, refused, on_target, labels
):
    path = write_replies(tmp_path / "squire.jsonl", ("candle",))
    row = json.loads(path.read_text().splitlines()[0]) | {"reply_refused": refused}
    path.write_text(json.dumps(row | {"reply_on_target": on_target}))
    assert [example.labels for example in labelled_examples([path])] == [labels]


def test_what_was_left_out_was_left_out_by_prompt_and_by_source(monkeypatch):
    from sparring.evals import judge_training

    examples = [
        Example(("q", "r"), (label, label), f"p{n}", source)
        for source in "ab"
        for n in range(10)
        for label in (True, False)
    ]
    trained = []
    fake = lambda x, kept, penalty: trained.append(kept) or np.array([[0.0, 1.0], [0.0, -1.0]])  # noqa: E731
    monkeypatch.setattr(judge_training, "trained_heads", fake)
    shares = cross_validated(np.zeros((40, 1)), examples, 1.0, random.Random(0))
    assert {name: share.value for name, share in shares.items()} == {
        "refused/sensitivity": 1.0,
        "refused/specificity": 0.0,
        "on_target/sensitivity": 0.0,
        "on_target/specificity": 1.0,
    }
    assert {share.n_scored for share in shares.values()} == {20}
    assert len(trained) == 10
    for kept in trained:
        assert len({example.source for example in kept}) == 1
        assert len({example.prompt for example in kept}) == 8


def test_the_verb_fits_a_judge_that_a_run_can_use(tmp_path):
    files = [write_replies(tmp_path / name) for name in ("squire.jsonl", "page.jsonl")]
    out = tmp_path / "judge"
    ended = sparring_command("judge", "train", *files, "--out", out)
    assert ended.code == 0, ended
    card = json.loads((out / "judge.json").read_text())
    assert (card["replies"], card["prompts"], card["sources"]) == (32, 8, ["page", "squire"])
    assert "refused/sensitivity" in ended.out
    (tmp_path / "judge.yaml").write_text(f"judge: {{kind: linear, model: {out}}}")
    measured = sparring_command(
        *("judge", "calibrate", files[0], "--judge", tmp_path / "judge.yaml"),
        *("--output", tmp_path / "calibration.json", "--json"),
    )
    assert measured.code == 0, measured
    rows = json.loads(measured.out)["calibrations"]
    [refused] = [row for row in rows if row["field"] == "refused"]
    assert refused["sensitivity"]["value"] == 1.0
    assert sparring_command("judge", "train", *files, "--out", out).code == 2


def test_prompts_are_chosen_by_their_ids_and_one_label_alone_is_refused(tmp_path):
    file = write_replies(tmp_path / "squire.jsonl")
    assert len(labelled_examples([file], ["gate-True", "gate-False"])) == 2
    with pytest.raises(UsageError, match="of the prompts that were named"):
        labelled_examples([file], ["vault"])
    (tmp_path / "ids.txt").write_text("\n".join(f"{thing}-True" for thing in THINGS))
    words = ("judge", "train", file, "--out", tmp_path / "judge", "--prompts", tmp_path / "ids.txt")
    ended = sparring_command(*words)
    assert (ended.code, "have one label" in ended.text) == (2, True), ended
