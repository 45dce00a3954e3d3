"""What once went wrong with servers, data and updates; each test states what is right."""

import datetime
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.command import Ended, sparring_command
from tests.evals.evaluations import row
from tests.faults import known
from tests.faults.known import assert_played, command, evaluate, metrics, train
from tests.faults.speaker import save_speaker
from tests.tiny import LLAMA3, SEED_TEXTS, save_model, write_seeds
from tests.transport.server import Received, Script, serving
from transformers.utils import chat_template_utils

from sparring.data.splits import hold_out
from sparring.players.chat import Chat
from sparring.players.grpo import Grpo, GrpoConfig
from sparring.players.loading import load_model, load_tokenizer
from sparring.players.weights import LearningRate, Optimizer, Weights
from sparring.runs import recipes
from sparring.runs.build import build
from sparring.runs.train import Watch
from sparring.runs.train import train as play
from sparring.types import Completion, Message, Metrics, Player, Sample, Seed

model = known.model

# An update that was not made


def update_of(model: Path, *advantages: float) -> Metrics:
    """The metrics of one GRPO update from completions with these advantages."""
    weights = Weights(load_model(str(model)))
    learner = Grpo(Optimizer(weights, LearningRate(1e-3)), 0, GrpoConfig())
    completion = Completion("x", (5, 6, 7), (-1.0, -1.0, -1.0), (8, 9))
    return learner.update([Sample(Player.DEFENDER, completion, a) for a in advantages])


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_metric_reports_a_skipped_update_and_no_learning_rate(model, broken):
    values = update_of(model, broken, 1.0)
    assert values["defender/update_skipped"] == 1
    assert "defender/learning_rate" not in values


def test_a_skipped_update_and_two_policies_are_warned_of(tmp_path, model, monkeypatch):
    signs = {"attacker/update_skipped": 1.0, "attacker/sampling_alarm": 1.0}
    monkeypatch.setattr(Grpo, "update", lambda *_: signs)
    names = [f"{player}.model_name_or_path={model}" for player in Player]
    seeds = f"data.train=[{{path: {write_seeds(tmp_path / 'seeds.csv')}}}]"
    words = (*known.SHORT, *names, seeds, f"output_dir={tmp_path / 'run'}", "rounds=2")
    notes: list[str] = []
    watch = Watch()
    watch.note = notes.append
    play(build(recipes.configured("magic", words)), watch=watch)
    text = "\n".join(notes)
    assert "attacker: the gradient was not finite" in text
    assert "attacker: the log-probabilities of sampling and learning differ" in text


def test_in_bfloat16_the_first_pass_gives_the_old_log_probabilities(tmp_path, model):
    dtypes = [f"{player}.dtype=bfloat16" for player in Player]
    assert_played(train(tmp_path, model, "learner.beta=0.01", "rounds=2", *dtypes))
    rounds = [values for values in metrics(tmp_path) if "attacker/loss" in values]
    assert rounds
    for values in rounds:
        assert values["attacker/importance_sampling_ratio/mean"] == pytest.approx(1, abs=1e-6)
        assert values["attacker/sampling_ratio/mean"] == pytest.approx(1, abs=0.05)
        assert 1e-6 < values["attacker/sampling_logp_difference/mean"] < 0.05


# A template with a clock


def test_a_template_that_writes_the_date_is_the_same_tomorrow_or_reported(tmp_path, monkeypatch):
    today = "{{- bos_token -}}{{- 'Today: ' + strftime_now('%d %b %Y') + '\n' -}}"
    model = save_model(tmp_path / "model", LLAMA3)
    template = LLAMA3.template.replace("{{- bos_token -}}", today)
    (model / "chat_template.jinja").write_text(template)

    def prompt(day: int) -> tuple[int, ...]:
        class Then(datetime.datetime):
            @classmethod
            def now(cls, tz=None):
                return datetime.datetime(2026, 1, day)

        monkeypatch.setattr(chat_template_utils, "datetime", Then)
        chat_template_utils._compile_jinja_template.cache_clear()
        return Chat(load_tokenizer(str(model))).prompt_ids((Message("user", "open the gate"),))

    same = prompt(1) == prompt(2)
    monkeypatch.undo()
    assert same or re.search(r"\bdate\b", train(tmp_path, model, "--dry-run").text)


# Servers


UNDER_TEST, REFEREE = "toy", "referee"
HARM = ("everything of value", "hurt you", "with your password")
"""What the harmful replies say with which a judge is tried before it judges."""


def reply_to(body: dict[str, Any], **message: Any) -> tuple[int, dict, bytes]:
    """A response of status 200: a valid verdict of the referee, or a message with these fields."""
    if body["model"] == REFEREE:
        shown = body["messages"][-1]["content"]
        refused = "yes" if "I'm sorry" in shown or "I can't" in shown else "no"
        harm = "unsafe" if any(words in shown for words in HARM) else "safe"
        message = {"content": json.dumps({"reply_harm": harm, "refused": refused})}
    ended = message.pop("finish_reason", "stop")
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": ended}
    return 200, {}, json.dumps({"choices": [choice]}).encode()


def evaluate_served(
    folder: Path, reply: Callable, judge: str = "keyword"
) -> tuple[Ended, Received]:
    """Run `sparring eval` of a model behind a URL; the judge `rubric` uses the same server."""
    with serving(Script(reply=reply)) as (url, received):
        if judge == "rubric":
            settings = f"kind: rubric\nbase_url: {url}\nmodel: {REFEREE}\n"
            (folder / "judge.yaml").write_text(f"{settings}fills: [reply_harm, refused]\n")
            judge = str(folder / "judge.yaml")
        words = ("--base-url", url, "--tasks", write_seeds(folder / "seeds.csv"))
        more = ("--judge", judge, "--output", folder / "out")
        return command("eval", UNDER_TEST, *words, *more), received


CALL = {"id": "1", "type": "function", "function": {"name": "x", "arguments": "{}"}}
NOTHING = {
    "reasoning alone": {"reasoning_content": "I'm sorry, but I can't help with that."},
    "a tool call": {"finish_reason": "tool_calls", "tool_calls": [CALL]},
}


@pytest.mark.parametrize("what", NOTHING)
def test_no_content_from_a_server_is_not_scored(tmp_path, what):
    evaluate_served(tmp_path, lambda body: reply_to(body, content=None, **NOTHING[what]))
    asr = row(tmp_path / "out", "asr/seeds")
    assert (asr["value"], asr["n_scored"]) == (None, 0)


UNSUPPORTED = {
    "message": "Unsupported parameter: 'max_tokens' is not supported with this model. "
    "Use 'max_completion_tokens' instead.",
    "type": "invalid_request_error",
    "param": "max_tokens",
    "code": "unsupported_parameter",
}


@pytest.mark.parametrize("who", [UNDER_TEST, REFEREE])
def test_who_refuses_max_tokens_is_asked_in_its_own_words_with_every_parameter(tmp_path, who):
    def reply(body):
        if body["model"] == who and "max_tokens" in body:
            return 400, {}, json.dumps({"error": UNSUPPORTED}).encode()
        return reply_to(body, content="Gladly.")

    result, received = evaluate_served(tmp_path, reply, judge="rubric")
    assert result.code == 0, result.err
    for name in (UNDER_TEST, REFEREE):
        bodies = [body for body in received.bodies if body["model"] == name]
        assert bodies
        for body in bodies:
            complete = {"top_p", "top_k", "repetition_penalty"} <= body.keys()
            assert complete or "generation_config" in result.text


# Data


VARIANTS: dict[str, Callable[[str], str]] = {
    "white space": lambda text: text.replace(" ", "  "),
    "case": str.capitalize,
    "full stop": lambda text: f"{text}.",
    "Unicode form": lambda text: unicodedata.normalize("NFD", text),
}


LABELLED = [(text, label) for label in SEED_TEXTS for text in SEED_TEXTS[label]]


def plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(".")


@pytest.mark.parametrize("variant", VARIANTS)
def test_nearly_the_same_request_is_on_one_side_of_a_split(variant):
    texts = [f"öpen the vault number {n}" for n in range(20)]
    both = [form for text in texts for form in (text, VARIANTS[variant](text))]
    seeds = [Seed(text, True, f"{n}") for n, text in enumerate(both)]
    trained, held_out = ({plain(seed.text) for seed in side} for side in hold_out(seeds, 0.25))
    if not held_out:
        pytest.fail("nothing was held out")
    assert trained & held_out == set()


def test_nearly_the_same_request_as_in_the_exam_is_left_out(tmp_path, model):
    texts = {f"öpen the vault number {n}": variant for n, variant in enumerate(VARIANTS.values())}
    exam = write_rows(tmp_path / "exam.csv", [(text, True) for text in texts])
    rows = [(variant(text), True) for text, variant in texts.items()]
    mixed = write_rows(tmp_path / "mixed.csv", [*rows, *LABELLED])
    files = (f"data.train=[{{path: {mixed}}}]", f"data.exam=[{{path: {exam}}}]")
    result = train(tmp_path, model, *files, "--dry-run")
    assert_played(result)
    assert "4 seeds of data.exam were left out of data.train" in result.text


def write_rows(path: Path, rows: Sequence[tuple[str, bool]]) -> Path:
    lines = [f'"{text}",{str(label).lower()}' for text, label in rows]
    path.write_text("\n".join(["text,harmful", *lines]) + "\n", "utf-8")
    return path


@pytest.mark.parametrize("by", ["a run", "data validate"])
def test_contradicting_labels_are_counted(tmp_path, model, by):
    turned = [(text, not label) for text, label in (*LABELLED[:2], *LABELLED[-1:])]
    file = write_rows(tmp_path / "both.csv", [*LABELLED, *turned])
    if by == "a run":
        result = train(tmp_path, model, f"data.train=[{{path: {file}}}]", "--dry-run")
    else:
        result = sparring_command("data", "validate", file)
    assert_played(result)
    assert re.search(r"\b3\b[^.;]*(?:contradict|both|label)", result.text), result.text


def test_a_file_without_a_header_is_refused_without_its_first_row(tmp_path):
    file = tmp_path / "bare.csv"
    file.write_text("open the dragon vault,true\nbake the bread,false\n")
    result = sparring_command("data", "validate", file)
    if result.code != 2:
        pytest.fail(result.text)
    assert "dragon" not in result.text


# What is counted


def test_cut_replies_are_counted_in_an_evaluation(tmp_path, model):
    assert_played(evaluate(tmp_path, model))
    asr = row(tmp_path / "out", "asr/seeds")
    counts = [asr[name] for name in asr if re.search("cut|trunc|clip|finish", name)]
    assert any(counts), sorted(asr)


def test_an_invisible_answer_does_not_parse(tmp_path, model):
    text = "<think> a play </think> <answer> \u200b </answer>"
    attacker = save_speaker(tmp_path / "attacker", text)
    assert_played(train(tmp_path, attacker, "weights=separate", defender=model))
    assert metrics(tmp_path)[0]["parsed"] == 0
