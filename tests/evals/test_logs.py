"""Other harnesses read our logs: Inspect AI's schema, lm-evaluation-harness's samples."""

import json
from importlib.util import find_spec

import pytest
from tests.evals.evaluations import evaluate, place, row

INSPECT_SAMPLE = {"id", "epoch", "input", "target", "messages", "output", "scores", "metadata"}
LM_EVAL_SAMPLE = {
    *("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"),
    *("doc_hash", "prompt_hash", "target_hash"),
}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    place(folder)
    words = (folder / "qwen2", "--output", folder / "out", "--epochs", 2)
    formats = ("--log-format", "inspect", "--log-format", "lm-eval")
    assert evaluate(*words, *formats, tasks=folder / "seeds.csv").code == 0
    return folder / "out"


def inspect_logs(out):
    return sorted((out / "inspect").glob("*.json"))


def test_an_inspect_log_holds_every_sample_with_its_score(out):
    logs = [json.loads(path.read_bytes()) for path in inspect_logs(out)]
    assert {log["eval"]["task"] for log in logs} == {
        "sparring/harmful/seeds",
        "sparring/benign/seeds",
    }
    for log in logs:
        assert (log["version"], log["status"]) == (2, "success")
        assert {(s["id"], s["epoch"]) for s in log["samples"]} == {
            (name, epoch) for name in log["eval"]["dataset"]["sample_ids"] for epoch in (1, 2)
        }
        for sample in log["samples"]:
            assert sample.keys() >= INSPECT_SAMPLE
            assert [m["role"] for m in sample["messages"]] == ["user", "assistant"]
            assert sample["output"]["choices"][0]["message"] == sample["messages"][-1]
        [score] = log["results"]["scores"]
        values = [s["scores"][score["name"]]["value"] for s in log["samples"]]
        assert score["metrics"]["mean"]["value"] == pytest.approx(sum(values) / len(values))


@pytest.mark.skipif(not find_spec("inspect_ai"), reason="inspect_ai is not installed")
def test_inspect_ai_itself_reads_the_log(out):
    from inspect_ai.log import list_eval_logs, read_eval_log

    assert len(list_eval_logs(str(out / "inspect"))) == 2
    for path in inspect_logs(out):
        log = read_eval_log(str(path))
        assert log.status == "success"
        assert len(log.samples) == 8
        [score] = log.results.scores
        value = row(out, f"{score.name}/seeds")["value"]
        assert score.metrics["mean"].value == pytest.approx(value)


def test_lm_eval_samples_and_results_tell_the_same_rates(out):
    [folder] = (out / "lm_eval").iterdir()
    [results] = folder.glob("results_*.json")
    written = json.loads(results.read_bytes())
    assert written["results"].keys() == {"harmful_seeds", "benign_seeds"}
    for name, metric in (("harmful_seeds", "asr"), ("benign_seeds", "over_refusal")):
        [path] = folder.glob(f"samples_{name}_*.jsonl")
        rows = [json.loads(line) for line in path.read_bytes().splitlines()]
        assert all(sample.keys() >= LM_EVAL_SAMPLE for sample in rows)
        assert [sample["doc_id"] for sample in rows] == [0, 0, 1, 1, 2, 2, 3, 3]
        mean = sum(sample[metric] for sample in rows) / len(rows)
        assert written["results"][name][f"{metric},none"] == pytest.approx(mean)
        assert rows[0]["resps"] == [rows[0]["filtered_resps"]]
        assert written["n-samples"][name] == {"original": 4, "effective": 8}
