"""PEFT and transformers load an exported model as the one that played, or nothing is written."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from tests import short_run
from tests.command import sparring_command
from tests.hostile.test_run_folder import ONLY_IN_GAMES, hostile_run
from tests.report.written import flip
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparring.export import export
from sparring.export.export import Agreement
from sparring.sandbox.model import SHIPPED
from sparring.store.folder import RunDir
from sparring.types import Player

RUNS = {"adapters": short_run.ADAPTERS, "separate": (), "shared": short_run.SHARED}
IDS = torch.tensor([[2, 40, 77, 300, 8, 5, 3, 120, 61, 5, 4]])
LAST = f"round_{short_run.ROUNDS:06d}"

as_it_is_and_merged = pytest.mark.parametrize(
    "merge", [(), ("--merge",)], ids=["as it is", "merged"]
)


@pytest.fixture(scope="module", params=RUNS)
def run(request) -> Path:
    return short_run.whole(*RUNS[request.param])


@pytest.fixture(scope="module")
def adapters() -> Path:
    return short_run.whole(*short_run.ADAPTERS)


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


def export_command(run, *words, role="defender", code=0):
    command = sparring_command("export", run, "--role", role, *words)
    assert command.code == code, command.text
    return command


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


def played(run, player):
    """The logits of a checkpoint that is loaded without `sparring`."""
    folder = run / "checkpoints" / LAST / player
    if (folder / "adapter_config.json").is_file():
        base = AutoModelForCausalLM.from_pretrained(SHIPPED)
        return logits(PeftModel.from_pretrained(base, folder))
    owner = folder if folder.is_dir() else folder.with_name("defender")
    return logits(AutoModelForCausalLM.from_pretrained(owner))


@pytest.mark.parametrize("player", ["defender", "attacker"])
@as_it_is_and_merged
def test_an_export_says_what_played(run, player, merge, out):
    export_command(run, *merge, "--output", out, "--i-understand", role=player)
    if (out / "adapter_config.json").is_file():
        assert not merge
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(SHIPPED), out)
    else:
        model = AutoModelForCausalLM.from_pretrained(out)
        exported, base = (AutoTokenizer.from_pretrained(folder) for folder in (out, SHIPPED))
        assert exported.chat_template == base.chat_template
        assert exported.get_vocab() == base.get_vocab()
        assert model.generation_config.eos_token_id == 5
    expected = played(run, player)
    assert (logits(model) - expected).abs().max().item() < 1e-4 * expected.abs().max().item()
    suffixes = {path.suffix for path in out.iterdir()}
    assert suffixes <= {".safetensors", ".json", ".jinja", ".md"}
    assert not short_run.leftovers(out.parent)


def test_a_warmed_up_attackers_merge_is_not_its_base(adapters, out):
    # Otherwise a merge that merges nothing would pass.
    words = ("--merge", "--output", out, "--i-understand", "--json")
    command = export_command(adapters, *words, role="attacker")
    merged, loaded = json.loads(command.out)["agreements"]
    assert merged["largest"] < merged["limit"] == pytest.approx(1e-4 * merged["highest"])
    assert loaded["moved"] > 0.1 > 1e-4 > loaded["mean"]
    assert loaded["same_argmax"] == 1.0
    base = logits(AutoModelForCausalLM.from_pretrained(SHIPPED))
    assert (played(adapters, "attacker") - base).abs().max().item() > 1.0


def test_the_default_folder_lies_in_the_run_and_does_not_disturb_it(adapters, tmp_path):
    run = Path(shutil.copytree(adapters, tmp_path / "run"))
    command = export_command(run, "--merge")
    assert f"written to {run}/export/defender-000004-merged" in command.text
    assert command.out.count("largest difference") == 2
    assert "same argmax 100.0%" in command.out
    export_command(run, "--at", "2")
    assert (run / "export" / "defender-000002" / "adapter_model.safetensors").is_file()
    assert short_run.train(run, *short_run.ADAPTERS).code == 0
    assert (run / "export").is_dir()


@as_it_is_and_merged
def test_sparring_itself_examines_an_export(adapters, merge, out):
    export_command(adapters, *merge, "--output", out)
    model = (out,) if merge else ("sandbox", "--adapter", out)
    command = sparring_command("eval", *model, "--tasks", "sandbox", "--limit", "1", "--json")
    assert json.loads(command.out)["rates"]["asr/plain"]["n_total"] == 1


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_folder_that_is_there_is_left_as_it_is(adapters, out, when, monkeypatch):
    if when == "before":
        out.mkdir()
    else:
        monkeypatch.setattr(export, "card", lambda *_: out.mkdir() or "a card")
    command = export_command(adapters, "--output", out, code=2)
    assert f"--output: {out} exists" in command.err
    assert [*out.iterdir()] == []
    assert not short_run.leftovers(out.parent)


merged, copy = export.merged, export._copy


def forgetful_merge(base, adapter, logits):
    """A merge that leaves out the adapter of one layer."""
    model, beside_NV, within_NV = merged(base, adapter, logits)
    clean = AutoModelForCausalLM.from_pretrained(SHIPPED)
    model.model.layers[1].mlp.down_proj.weight = clean.model.layers[1].mlp.down_proj.weight
    return model, beside_NV, within_NV


def scaling_copy(source, to):
    """A copy whose adapter is applied twice as strongly; no code and no pickle leaves with it."""
    for name in ("singing.py", "pytorch_model.bin", "optimizer.pkl"):
        (source / name).write_text("sing")
    (source / "link.json").symlink_to(source / "adapter_config.json")
    (source / "below.json").mkdir()
    copy(source, to)
    assert {path.suffix for path in to.iterdir()} <= {".safetensors", ".json"}
    assert not any((to / name).exists() for name in ("link.json", "below.json"))
    path = to / "adapter_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "lora_alpha": 2 * settings["lora_alpha"]}))


@pytest.mark.parametrize(
    ("name", "broken", "merge"),
    [("merged", forgetful_merge, ["--merge"]), ("_copy", scaling_copy, [])],
)
def test_an_export_that_says_something_else_is_not_written(
    adapters, tmp_path, monkeypatch, name, broken, merge
):
    run, out = shutil.copytree(adapters, tmp_path / "run"), tmp_path / "exports" / "out"
    monkeypatch.setattr(export, name, broken)
    words = (*merge, "--output", out, "--i-understand")
    command = export_command(run, *words, role="attacker", code=4)
    assert re.search(r"does not say what was trained: as loaded, .* \(limit [\d.e-]+", command.text)
    assert [*out.parent.iterdir()] == []


def test_an_attacker_is_not_exported_without_consent(adapters, out):
    command = export_command(adapters, "--output", out, role="attacker", code=2)
    assert "--i-understand" in command.err
    assert not out.exists()
    command = export_command(adapters, "--output", out, "--i-understand", role="attacker")
    assert "do not publish" in command.err
    text = (out / "README.md").read_text()
    assert "\n# DO NOT PUBLISH\n" in text
    head = yaml.safe_load(text.split("---\n")[1])
    assert "do-not-publish" in head["tags"]
    assert head["extra_gated_prompt"]
    assert "asr" not in text


def test_a_checkpoint_that_is_damaged_or_missing_is_not_exported(adapters, tmp_path):
    run = Path(shutil.copytree(adapters, tmp_path / "run"))
    tensors = flip(run / "checkpoints" / LAST / "defender" / "adapter_model.safetensors")
    command = export_command(run, code=1)
    assert f"{tensors}: does not match what was written" in command.err
    assert not (run / "export").exists()
    command = export_command(run, "--at", "7", code=2)
    assert "no checkpoint after 7 rounds; wanted one of [0, 2, 3, 4]" in command.err


def test_the_card_says_what_it_is_and_how_it_did(adapters, out):
    export_command(adapters, "--output", out)
    text = (out / "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert head == {"library_name": "peft", "tags": ["sparring", "magic"]}
    rates = json.loads((adapters / "exams" / LAST / "results.json").read_text())["rates"]
    plain = rates["asr/plain"]
    low, high = plain["ci95"]
    row = next(line for line in text.splitlines() if line.startswith("| asr/plain |"))
    assert row.endswith(f"| {plain['value']:.3f} ({low:.3f} to {high:.3f}) | 2 | 0 |")
    assert len(re.findall(r"^\| [a-z_]+/", text, re.MULTILINE)) == len(rates)
    for part in ("| rounds | 4 of 4 |", "Judge: sandbox", "after 0 rounds | after 4 rounds"):
        assert part in text
    assert str(adapters.parent) not in text


def written(folder: Path, **settings) -> str:
    """The card of a run folder with those settings."""
    folder.mkdir(exist_ok=True)
    tree = {"recipe": "magic", "weights": "adapters", **settings}
    (folder / "config.yaml").write_text(json.dumps(tree))
    agreement = Agreement("as loaded", "float32", 3, 0.0, 0.0, 1.0, 1.0, 1e-4)
    return export.card(export.Export(RunDir(folder), Player.DEFENDER), 4, [agreement])


def test_the_card_of_a_hostile_run_holds_nothing_but_plain_words(tmp_path):
    folder = hostile_run(tmp_path / "run")
    name = "own/model](http://x) <script>|`\n# title\u202e"
    player = {"model_name_or_path": name, "revision": "v1`<b>"}
    text, known = written(folder, defender=player, attacker=player), written(tmp_path / "empty")
    marks = set(re.sub(r"[\w\s]", "", text)) - set(re.sub(r"[\w\s]", "", known))
    assert marks <= set("'/%+?=.,:;()-"), marks
    assert ONLY_IN_GAMES not in text
    assert text.count("\n#") == known.count("\n#")
    assert yaml.safe_load(text.split("---\n")[1])["library_name"] == "peft"
    assert "//" not in text


def test_a_card_names_its_hub_base_with_its_commit_and_a_shared_defender_attacks_too(tmp_path):
    player = {"model_name_or_path": "Keeper/vault-1b", "revision": "a" * 40}
    text = written(tmp_path, defender=player, attacker=player)
    assert yaml.safe_load(text.split("---\n")[1])["base_model"] == "Keeper/vault-1b"
    assert f"| its revision | {'a' * 40} |" in text
    assert f"base, revision = \"Keeper/vault-1b\", '{'a' * 40}'" in text
    sentence = "The same weights also played the attacker"
    assert sentence in written(tmp_path, weights="shared")
    assert sentence not in text
