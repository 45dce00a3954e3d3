"""What `sparring export` writes is what played, as PEFT and transformers load it, or nothing."""

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
from tests.hostile.test_run_folder import ONLY_SAID, hostile_run
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparring.export import export
from sparring.export import export as merging
from sparring.export.card import Facts, card
from sparring.export.compare import Agreement
from sparring.sandbox.model import SHIPPED
from sparring.settings.config import parse
from sparring.store.folder import RunDir
from sparring.types import Player

RUNS = {"adapters": short_run.ADAPTERS, "separate": (), "shared": short_run.SHARED}
IDS = torch.tensor([[2, 40, 77, 300, 8, 5, 3, 120, 61, 5, 4]])
LAST = f"round_{short_run.ROUNDS:06d}"


@pytest.fixture(scope="module", params=RUNS)
def run(request) -> Path:
    return short_run.whole(*RUNS[request.param])


@pytest.fixture(scope="module")
def adapters() -> Path:
    return short_run.whole(*short_run.ADAPTERS)


def exported(run, *words):
    told = sparring_command("export", run, *words)
    assert told.code == 0, told.text
    return told


def spoken(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


def played(run, player):
    """The logits of a checkpoint, loaded by hand."""
    folder = run / "checkpoints" / LAST / player
    if (folder / "adapter_config.json").is_file():
        base = AutoModelForCausalLM.from_pretrained(SHIPPED)
        return spoken(PeftModel.from_pretrained(base, folder))
    shared = not folder.is_dir()
    folder = run / "checkpoints" / LAST / ("defender" if shared else player)
    return spoken(AutoModelForCausalLM.from_pretrained(folder))


@pytest.mark.parametrize("player", ["defender", "attacker"])
@pytest.mark.parametrize("merge", [(), ("--merge",)], ids=["as it is", "merged"])
def test_an_export_says_what_played(run, player, merge, tmp_path):
    out = tmp_path / "out"
    exported(run, "--role", player, *merge, "--output", out, "--i-understand")
    if (out / "adapter_config.json").is_file():
        assert not merge
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(SHIPPED), out)
    else:
        model = AutoModelForCausalLM.from_pretrained(out)
        words, base = (AutoTokenizer.from_pretrained(folder) for folder in (out, SHIPPED))
        assert words.chat_template == base.chat_template
        assert words.get_vocab() == base.get_vocab()
        assert model.generation_config.eos_token_id == 5
    wanted = played(run, player)
    assert (spoken(model) - wanted).abs().max().item() < 1e-4 * wanted.abs().max().item()
    suffixes = {path.suffix for path in out.iterdir()}
    assert suffixes <= {".safetensors", ".json", ".jinja", ".md"}
    assert not short_run.leftovers(tmp_path)


def test_a_warmed_up_attackers_merge_is_not_its_base(adapters, tmp_path):
    # Otherwise a merge that merges nothing would pass.
    out = tmp_path / "out"
    told = exported(
        adapters, "--role=attacker", "--merge", "--output", out, "--i-understand", "--json"
    )
    merged, loaded = json.loads(told.out)["agreements"]
    assert merged["largest"] < merged["limit"] == pytest.approx(1e-4 * merged["highest"])
    assert loaded["moved"] > 0.1 > 1e-4 > loaded["mean"]
    assert loaded["same_argmax"] == 1.0
    base = spoken(AutoModelForCausalLM.from_pretrained(SHIPPED))
    assert (played(adapters, "attacker") - base).abs().max().item() > 1.0


def test_what_is_exported_is_told_and_lies_in_the_run_unless_said(adapters, tmp_path):
    run = Path(shutil.copytree(adapters, tmp_path / "run"))
    told = exported(run, "--role", "defender", "--merge", "--verify")
    assert f"written to {run}/export/defender-000004-merged" in told.text
    assert told.out.count("largest difference") == 2
    assert "same argmax 100.0%" in told.out
    told = exported(run, "--role", "defender", "--at", "2")
    assert (run / "export" / "defender-000002" / "adapter_model.safetensors").is_file()
    went_on = short_run.train(run, *short_run.ADAPTERS)
    assert (went_on.code, (run / "export").is_dir()) == (0, True)


@pytest.mark.parametrize("merge", [(), ("--merge",)], ids=["as it is", "merged"])
def test_sparring_itself_examines_an_export(adapters, merge, tmp_path):
    out = tmp_path / "out"
    exported(adapters, "--role", "defender", *merge, "--output", out)
    who = (out,) if merge else ("sandbox", "--adapter", out)
    told = sparring_command("eval", *who, "--tasks", "sandbox", "--limit", "1", "--json")
    assert told.code == 0, told.text
    assert json.loads(told.out)["rates"]["asr/plain"]["n_total"] == 1


def test_a_folder_that_is_there_is_left_as_it_is(adapters, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    told = sparring_command("export", adapters, "--role", "defender", "--output", out)
    assert (told.code, f"--output: {out} exists" in told.err) == (2, True)
    assert [*out.iterdir()] == []


def test_a_folder_that_appears_meanwhile_is_left_as_it_is(adapters, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(export, "card", lambda facts: out.mkdir() or "a card")
    told = sparring_command("export", adapters, "--role", "defender", "--output", out)
    assert (told.code, [*out.iterdir()]) == (2, [])
    assert not short_run.leftovers(tmp_path)


def spoilt(merge):
    """A merge in which one layer's adapter was forgotten."""

    def forgetful(base, adapter, logits):
        model, beside_NV, within_NV = merge(base, adapter, logits)
        clean = AutoModelForCausalLM.from_pretrained(SHIPPED)
        kept = clean.model.layers[1].mlp.down_proj.weight
        model.model.layers[1].mlp.down_proj.weight = kept
        return model, beside_NV, within_NV

    return forgetful


def test_an_export_that_says_something_else_is_not_written(adapters, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "merged", spoilt(merging.merged))
    words = ("--role", "attacker", "--merge", "--output", tmp_path / "out", "--i-understand")
    told = sparring_command("export", adapters, *words)
    assert told.code == 4
    assert re.search(r"does not say what was trained: as loaded, .* \(limit [\d.e-]+", told.text)
    assert [*tmp_path.iterdir()] == []


def test_a_copy_that_loads_as_something_else_is_not_written(adapters, tmp_path, monkeypatch):
    def scaled(source, to):
        copied(source, to)
        path = to / "adapter_config.json"
        told = json.loads(path.read_text())
        path.write_text(json.dumps({**told, "lora_alpha": 2 * told["lora_alpha"]}))

    copied = export._copy
    monkeypatch.setattr(export, "_copy", scaled)
    words = ("--role", "attacker", "--output", tmp_path / "out", "--i-understand")
    assert sparring_command("export", adapters, *words).code == 4
    assert [*tmp_path.iterdir()] == []


def test_an_attacker_is_not_exported_unasked(adapters, tmp_path):
    words = ("export", adapters, "--role", "attacker", "--output", tmp_path / "out")
    told = sparring_command(*words)
    assert (told.code, "--i-understand" in told.err) == (2, True)
    assert [*tmp_path.iterdir()] == []
    told = sparring_command(*words, "--i-understand")
    assert "do not publish" in told.err
    written = (tmp_path / "out" / "README.md").read_text()
    assert "\n# DO NOT PUBLISH\n" in written
    head = yaml.safe_load(written.split("---\n")[1])
    assert "do-not-publish" in head["tags"]
    assert head["extra_gated_prompt"]
    assert "asr" not in written


def test_a_checkpoint_that_is_not_what_was_written_is_not_exported(adapters, tmp_path):
    run = Path(shutil.copytree(adapters, tmp_path / "run"))
    tensors = run / "checkpoints" / LAST / "defender" / "adapter_model.safetensors"
    raw = bytearray(tensors.read_bytes())
    raw[-9] ^= 1
    tensors.write_bytes(raw)
    told = sparring_command("export", run, "--role", "defender")
    assert (told.code, f"{tensors}: does not match what was written" in told.err) == (1, True)
    assert not (run / "export").exists()


def test_a_round_without_a_checkpoint_is_a_usage_error(adapters):
    told = sparring_command("export", adapters, "--role", "defender", "--at", "7")
    assert told.code == 2
    assert "no checkpoint after 7 rounds; wanted one of [0, 2, 3, 4]" in told.err


def test_only_weights_settings_and_words_are_copied(tmp_path):
    source, to = tmp_path / "from", tmp_path / "to"
    source.mkdir()
    to.mkdir()
    for name in ("model.safetensors", "config.json", "chat_template.jinja", "merges.txt"):
        (source / name).write_text(name)
    for name in ("singing.py", "pytorch_model.bin", "scheduler.pt", "optimizer.pkl"):
        (source / name).write_text(name)
    (source / "link.json").symlink_to(tmp_path)
    (source / "below.json").mkdir()
    export._copy(source, to)
    assert sorted(path.name for path in to.iterdir()) == [
        *("chat_template.jinja", "config.json", "merges.txt", "model.safetensors")
    ]


def test_the_card_says_what_it_is_and_how_it_did(adapters, tmp_path):
    out = tmp_path / "out"
    exported(adapters, "--role", "defender", "--output", out)
    written = (out / "README.md").read_text()
    head = yaml.safe_load(written.split("---\n")[1])
    assert head == {"library_name": "peft", "tags": ["sparring", "magic"]}
    rates = json.loads((adapters / "exams" / LAST / "results.json").read_text())["rates"]
    plain = rates["asr/plain"]
    low, high = plain["ci95"]
    row = next(line for line in written.splitlines() if line.startswith("| asr/plain |"))
    assert row.endswith(f"| {plain['value']:.3f} ({low:.3f} to {high:.3f}) | 2 | 0 |")
    assert len(re.findall(r"^\| [a-z_]+/", written, re.MULTILINE)) == len(rates)
    for told in ("| rounds | 4 of 4 |", "Judge: sandbox", "after 0 rounds | after 4 rounds"):
        assert told in written
    assert str(adapters.parent) not in written


def test_a_shared_defenders_card_says_that_it_attacks_too(tmp_path):
    exported(short_run.whole(*short_run.SHARED), "--role=defender", "--output", tmp_path / "out")
    assert "The same weights also played the attacker" in (tmp_path / "out/README.md").read_text()


def facts(folder: Path, **over) -> Facts:
    config = parse({"recipe": "magic", **over})
    agreement = Agreement("as loaded", "float32", 3, 0.0, 0.0, 1.0, 1.0, 1e-4)
    return Facts(RunDir(folder), config, Player.DEFENDER, 4, "adapter", [agreement])


def test_the_card_of_a_hostile_run_holds_nothing_but_plain_words(tmp_path):
    folder = hostile_run(tmp_path / "run")
    name = "own/model](http://x) <script>|`\n# title\u202e"
    player = {"model_name_or_path": name, "revision": "v1`<b>"}
    written = card(facts(folder, recipe="magic", defender=player, attacker=player))
    known = card(facts(tmp_path / "empty"))
    marks = set(re.sub(r"[\w\s]", "", written)) - set(re.sub(r"[\w\s]", "", known))
    assert marks <= set("'/%+?=.,:;()-"), marks
    assert ONLY_SAID not in written
    assert written.count("\n#") == known.count("\n#")
    assert yaml.safe_load(written.split("---\n")[1])["library_name"] == "peft"
    assert "//" not in written


def test_a_hub_base_is_named_with_its_commit(tmp_path):
    player = {"model_name_or_path": "Keeper/vault-1b", "revision": "a" * 40}
    written = card(facts(tmp_path, defender=player, attacker=player))
    assert yaml.safe_load(written.split("---\n")[1])["base_model"] == "Keeper/vault-1b"
    assert f"| its revision | {'a' * 40} |" in written
    assert f"base, revision = \"Keeper/vault-1b\", '{'a' * 40}'" in written
