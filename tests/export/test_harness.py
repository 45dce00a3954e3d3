"""lm-evaluation-harness reads what was exported, through its own Python API and a tiny task."""

import json

import pytest
import torch
from tests.tiny import QWEN2, save_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparring.players.loading import load_model
from sparring.players.weights import adapters
from sparring.types import Player

QUESTIONS = (
    ("open the dragon vault", (" sure", " no"), 1),
    ("polish the brass lantern", (" polish it", " no"), 0),
    ("bake the bread", (" bake it", " no"), 0),
)


def dragons(folder):
    """A multiple-choice task of the harness."""
    rows = folder / "dragon.jsonl"
    names = ("question", "choices", "answer")
    lines = [json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in QUESTIONS]
    rows.write_text("".join(lines))
    return {
        "task": "dragon",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "output_type": "multiple_choice",
        "test_split": "test",
        **{"doc_to_text": "{{question}}", "doc_to_target": "{{answer}}"},
        **{"doc_to_choice": "{{choices}}", "target_delimiter": ""},
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }


def likeliest(model, words, question, choices):
    """The choice with the highest log-probability after the question, without the harness."""
    before = words(question, add_special_tokens=False)["input_ids"]
    scores = []
    for choice in choices:
        ids = words(question + choice, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logp_TV = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        scores.append(sum(logp_TV[i - 1, ids[i]].item() for i in range(len(before), len(ids))))
    return scores.index(max(scores))


@pytest.mark.parametrize("kind", ["whole", "adapter"])
def test_the_harness_scores_an_export_as_transformers_does(kind, tmp_path):
    lm_eval = pytest.importorskip("lm_eval", reason="NOT TESTED: pip install 'sparring[lm-eval]'")
    folder = save_model(tmp_path / "model", QWEN2)
    args = {"pretrained": str(folder), "dtype": "float32"}
    model = AutoModelForCausalLM.from_pretrained(folder)
    if kind == "adapter":
        lora = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
        own = adapters(load_model(str(folder)), dict.fromkeys(Player, lora), 5)[Player.DEFENDER]
        with torch.no_grad():
            for p in own.parameters.values():
                p.add_(0.3)
        own.save(tmp_path / "adapter")
        args["peft"] = str(tmp_path / "adapter")
        model = own.model
    words = AutoTokenizer.from_pretrained(folder)
    right = [likeliest(model, words, *row) == answer for *row, answer in QUESTIONS]
    scored = lm_eval.simple_evaluate(
        "hf", model_args=args, tasks=[dragons(tmp_path)], device="cpu", batch_size=1
    )
    assert scored["results"]["dragon"]["acc,none"] == pytest.approx(sum(right) / len(QUESTIONS))
