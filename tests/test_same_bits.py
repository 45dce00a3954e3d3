"""`scripts/same-bits` notices differences; these tests do not play its scenes."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from scripts import same_bits

ROUND = {"round": 0, "metrics": {"asr": 0.25, "defender/loss": 0.3}, "seconds": {"play": 1.5}}
COMMAND = {
    "command": "bound run --json",
    "exit code": 0,
    "printed": {"upper": 0.3, "caveat": "Says little."},
    "text": {"out": ["{"], "err": []},
}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    weights = {"layer": torch.tensor([[0.5, -1.25, 3.0]]), "bias": torch.tensor([0.1])}
    save_file(weights, tmp_path / "checkpoints" / "model.safetensors")
    save_file({"layer/exp_avg": weights["layer"]}, tmp_path / "checkpoints" / "optim.safetensors")
    (tmp_path / "rounds.jsonl").write_text(json.dumps(ROUND) + "\n")
    (tmp_path / "openings.jsonl.gz").write_bytes(gzip.compress(b'{"set": "plain"}\n'))
    (tmp_path / "run.json").write_text('{"status": "complete", "time": "2026-01-02T03:04:05+0000"}')
    return tmp_path


def recorded(folder, **command):
    files = same_bits.files(folder, (Path("/trees/one/src"), folder))
    return {"commands": [COMMAND | command], "files": files}


def differing(base, head, text=False):
    items = same_bits.compare(base, head, text)
    return {item: differences for item, differences in items.items() if differences}


def change_weight(run):
    bias = torch.nextafter(torch.tensor([0.1]), torch.tensor(1.0))
    weights = {"layer": torch.tensor([[0.5, -1.25, 3.0]]), "bias": bias}
    save_file(weights, run / "checkpoints" / "model.safetensors")


def change_moment(run):
    moments = {"layer/exp_avg": torch.tensor([[0.5, 1.25, 3.0]])}
    save_file(moments, run / "checkpoints" / "optim.safetensors")


def change_metric(run):
    metrics = ROUND["metrics"] | {"asr": 0.25000000000000006}
    (run / "rounds.jsonl").write_text(json.dumps(ROUND | {"metrics": metrics}) + "\n")


def change_opening(run):
    (run / "openings.jsonl.gz").write_bytes(gzip.compress(b'{"set": "broad"}\n'))


def rename_rounds(run):
    (run / "rounds.jsonl").rename(run / "history.jsonl")


CHANGES = [
    (change_weight, "weights", "checkpoints/model.safetensors: bias: "),
    (change_moment, "moments", "layer/exp_avg: "),
    (change_metric, "rounds", "[0].metrics.asr: 0.25 → 0.25000000000000006"),
    (change_opening, "openings, games and samples", 'set: "plain" → "broad"'),
    (rename_rounds, "rounds", "rounds.jsonl is now called history.jsonl"),
]


@pytest.mark.parametrize(("change", "item", "message"), CHANGES)
def test_a_change_is_noticed_and_its_place_is_named(run, change, item, message):
    base = recorded(run)
    change(run)
    [(changed, [difference])] = differing(base, recorded(run)).items()
    assert changed == item
    assert message in difference


def test_clocks_are_not_compared(run):
    base = recorded(run)
    later = ROUND | {"seconds": {"play": 7.0}, "cpu_seconds": 2.0}
    (run / "rounds.jsonl").write_text(json.dumps(later) + "\n")
    (run / "run.json").write_text('{"status": "complete", "time": "2027-05-05T00:00:00+0000"}')
    assert differing(base, recorded(run)) == {}


def test_exit_codes_and_printed_figures_count_and_sentences_only_when_asked(run):
    base = recorded(run)
    [differences] = differing(base, recorded(run, **{"exit code": 3})).values()
    assert differences == ["exit code: 0 → 3 ()"]
    other = recorded(run, printed={"upper": 0.4, "caveat": "No."})
    [differences] = differing(base, other).values()
    assert differences == ["printed.upper: 0.3 → 0.4"]
    reworded = recorded(run, printed={"upper": 0.3, "caveat": "Says nothing."})
    assert differing(base, reworded) == {}
    assert len(differing(base, reworded, text=True)) == 1


def test_what_is_only_added_does_not_count_where_it_is_to_be_ignored(run):
    base = recorded(run)
    (run / "rounds.jsonl").write_text(json.dumps(ROUND | {"weather": "fine"}) + "\n")
    (run / "more.json").write_text("{}")
    assert differing(base, recorded(run)).keys() == {"rounds", "other files"}
    assert not any(same_bits.compare(base, recorded(run), False, new=False).values())


def test_files_that_are_named_by_a_digest_of_settings_are_compared_by_what_they_hold(run):
    def cells(**values):
        for path in run.glob("cell-*"):
            path.unlink()
        for digit, value in values.items():
            (run / f"cell-{digit * 24}.json").write_text(json.dumps({"value": value}))
        return recorded(run)

    assert differing(cells(a=0.25, b=0.5), cells(c=0.5, d=0.25)) == {}
    assert differing(cells(a=0.25, b=0.5), cells(a=0.25, b=0.75)) != {}


def test_a_schema_is_compared_without_the_names_of_classes():
    def schema(name, low):
        field = {"$ref": f"#/$defs/{name}", "default": 3}
        return {"$defs": {name: {"type": "integer", "minimum": low}}, "properties": {"n": field}}

    before, renamed, other = (
        same_bits.printed(["config", "schema"], json.dumps(schema(*about)))
        for about in (("Rounds", 1), ("RoundCount", 1), ("Rounds", 2))
    )
    assert [*same_bits.differences(before, renamed)] == []
    assert [*same_bits.differences(before, other)] == [("properties.n.minimum", "1", "2")]


def test_every_scene_comes_after_those_that_it_needs():
    names = list(same_bits.BY_NAME)
    assert len(names) == len(same_bits.SCENES)
    for place, scene in enumerate(same_bits.SCENES):
        assert set(scene.needs) <= set(names[:place])
