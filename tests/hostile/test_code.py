"""The package runs no code from its inputs: no pickle, eval, YAML tags or remote code."""

import ast
import json
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import short_run

import sparring
from sparring.players.loading import load_model
from sparring.players.weights import adapters
from sparring.runs.models import model_path
from sparring.types import Player

SOURCES = sorted(Path(sparring.__file__).parent.rglob("*.py"))
MODULES = r"(_?pickle|cloudpickle|dill|joblib|shelve|marshal|subprocess)\b"
FAULTS = [
    rf"^import (.*, )?{MODULES}",
    rf"^from {MODULES}",
    r"^from (torch|yaml|np|numpy)\b.* import .*load",
    r"^(eval|exec|compile|__import__|torch\.load|os\.system|os\.popen)\(",
    r"^importlib\.import_module\(",
    r"^(np|numpy)\.load\(.*allow_pickle=(?!False)",
    r"^yaml\.(?!safe_load\()\w*load\w*\((?!.*Loader=SAFE\))",
    r"\btrust_remote_code=(?!False)",
    r"^(?!PeftModel)[\w.]*\.from_pretrained\((?!.*trust_remote_code=)",
    r"^_read\(AutoModel\w*(?!.*\*\*options)",
    r"^[\w.]*AutoModel\w*\.from_pretrained\((?!.*use_safetensors=True)",
]
"""What an import or a call must not look like; SAFE is a loader of plain data."""


def faults(source: str) -> Iterator[str]:
    """Every import or call in a source text that could run code from its input."""
    tree = ast.parse(source)
    loaders = {"yaml.SafeLoader"} | {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and [ast.unparse(base) for base in node.bases] == ["yaml.SafeLoader"]
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Call):
            text = ast.unparse(node)
            for loader in loaders:
                text = text.replace(f"Loader={loader})", "Loader=SAFE)")
            if any(re.search(fault, text) for fault in FAULTS):
                yield text


def test_no_file_of_the_package_runs_what_it_reads():
    texts = {path.name: path.read_text() for path in SOURCES}
    assert [(name, fault) for name, text in texts.items() for fault in faults(text)] == []
    together = "\n".join(texts.values())
    for call in ("kind.from_pretrained(", "PeftModel.from_pretrained", "yaml.load("):
        assert call in together, "it is looked at where it could go wrong"
    models = re.findall(r"options: .*\n.*_read\(AutoModel", texts["loading.py"])
    assert len(models) == together.count("_read(AutoModel") == 1
    assert '"use_safetensors": True' in models[0]


UNSAFE = """
import os, dill as d
from joblib import load
import cloudpickle.cloudpickle
torch.load(path, weights_only=True)
from torch import load
numpy.load(path, allow_pickle=flag)
eval(text)
__import__(name)
importlib.import_module(name)
yaml.load(text)
yaml.load(text, Loader=_Loader)
class _Loader(yaml.FullLoader): yaml.load(text, Loader=_Loader)
yaml.full_load(text)
yaml.load_all(text, Loader=yaml.UnsafeLoader)
AutoModel.from_pretrained(p, trust_remote_code=flag, use_safetensors=True)
AutoModelForCausalLM.from_pretrained(p, trust_remote_code=False)
AutoTokenizer.from_pretrained(p)
kind.from_pretrained(p, **options)
_read(AutoModelForCausalLM, p, None)
"""
HARMLESS = """
model.eval()
np.load(path)
yaml.safe_load(text)
class _Loader(yaml.SafeLoader): yaml.load(text, Loader=_Loader)
AutoModel.from_pretrained(p, trust_remote_code=False, use_safetensors=True)
"""


def test_the_look_sees_what_runs_code_and_nothing_else():
    missed = [source for source in UNSAFE.strip().splitlines() if not list(faults(source))]
    wrong = [source for source in HARMLESS.strip().splitlines() if list(faults(source))]
    assert (missed, wrong) == ([], [])


class Canary:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "the-canary-sang"


@pytest.fixture
def model(tmp_path):
    """A copy of the sandbox's model that a test may change."""
    return Path(shutil.copytree(model_path("sandbox"), tmp_path / "model"))


def amended(path: Path, **more) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


def trained_on(model: Path) -> short_run.Ended:
    """The result of `sparring train` with this model as the attacker."""
    seat = f"attacker.model_name_or_path={model}"
    return short_run.train(model.parent / "run", seat, "--max-rounds=1")


def code_that_sings(folder: Path, canary: Path) -> None:
    """The module that `auto_map` names; importing it runs the canary."""
    (folder / "singing.py").write_text(
        f"import pathlib\npathlib.Path({str(canary)!r}).touch()\n"
        "class Config: ...\nclass Model: ...\nclass Tokenizer: ...\n"
    )


AUTO_MAP = {"AutoConfig": "singing.Config", "AutoModelForCausalLM": "singing.Model"}
NO_SAFETENSORS = "model_name_or_path: cannot load {model}: no *.safetensors in it"
TOKENIZER_MAP = {"AutoTokenizer": ["singing.Tokenizer", "singing.Tokenizer"]}


def test_the_canary_would_sing_if_somebody_let_it(canary, model):
    code_that_sings(model, canary)
    exec((model / "singing.py").read_text(), {})
    assert canary.exists()
    canary.unlink()
    pickle.loads(pickle.dumps(Canary(canary)))
    assert canary.exists()


def own_code(model, canary):
    code_that_sings(model, canary)
    amended(model / "config.json", model_type="singing", auto_map=AUTO_MAP)


def own_code_beside_a_known_type(model, canary):
    code_that_sings(model, canary)
    amended(model / "config.json", auto_map=AUTO_MAP)
    amended(model / "tokenizer_config.json", auto_map=TOKENIZER_MAP)


def only_a_pickle(model, canary):
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(canary)))


def pickles_beside_the_weights(model, canary):
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (model / name).write_bytes(pickle.dumps(Canary(canary)))


def a_pickle_called_safetensors(model, canary):
    (model / "model.safetensors").write_bytes(pickle.dumps(Canary(canary)))


@pytest.mark.parametrize(
    ("change", "codes", "messages"),
    [
        (own_code, {2}, ["model_name_or_path: cannot load {model}"]),
        (own_code_beside_a_known_type, {0, 2}, []),
        (only_a_pickle, {2}, [NO_SAFETENSORS, "a pickle and can run code"]),
        (pickles_beside_the_weights, {0}, []),
        (a_pickle_called_safetensors, {1, 2}, []),
    ],
)
def test_a_model_runs_none_of_its_own_code(canary, model, change, codes, messages):
    change(model, canary)
    ended = trained_on(model)
    assert ended.code in codes, ended
    for message in messages:
        assert message.format(model=model) in ended.err
    assert not canary.exists()
    if change is own_code:
        assert not (model.parent / "run").exists()
    if change is not a_pickle_called_safetensors:
        assert "Traceback" not in ended.err


def evaluated(model: str, adapter: Path) -> short_run.Ended:
    return short_run.sparring(
        *("eval", model, "--tasks", "sandbox", "--limit", "1", "--adapter", f"{adapter}")
    )


def test_an_adapter_that_is_only_a_pickle_is_refused_unread(canary, model):
    adapter = model.parent / "adapter"
    adapter.mkdir()
    lora = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(lora))
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Canary(canary)))
    ended = evaluated("sandbox", adapter)
    assert ended.code == 2
    assert "no adapter_model.safetensors" in ended.err
    assert "a .bin is a pickle and is not read" in ended.err
    assert not canary.exists()


def test_an_adapter_that_names_code_of_its_own_is_loaded_without_it(canary, model):
    folder = model.parent / "adapter"
    code_that_sings(model, canary)
    lora = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    base = load_model(str(model))
    adapters(base, dict.fromkeys(Player, lora), 3)[Player.DEFENDER].save(folder)
    mapping = {"parent_library": "singing", "base_model_class": "Model"}
    config = {"auto_mapping": mapping, "base_model_name_or_path": str(model)}
    amended(folder / "adapter_config.json", **config)
    ended = evaluated(str(model), folder)
    assert ended.code in (0, 2), ended.err
    assert "Traceback" not in ended.err
    assert not canary.exists()


REACH = "cycler.__init__.__globals__.os.system('touch {canary}')"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (REACH, "access to attribute '__init__' of 'type' object is unsafe"),
        ("raise_exception('no \x1b[31mred\u202e')", "the chat template"),
    ],
)
def test_a_chat_template_reaches_nothing_and_what_it_raises_is_printed_safely(
    canary, model, template, message
):
    code = template.replace("{canary}", str(canary))
    (model / "chat_template.jinja").write_text("{{ " + code + " }}")
    ended = trained_on(model)
    assert ended.code == 2
    assert message in ended.err
    assert template is REACH or "fails: TemplateError: no red" in ended.err
    assert not {"\x1b", "\u202e"} & set(ended.err)
    assert not canary.exists()


@pytest.mark.parametrize("name", ["optimizer.bin", "attacker/pytorch_model.bin", "scheduler.pt"])
def test_a_pickle_in_a_checkpoint_is_refused_unread(canary, tmp_path, name):
    run = short_run.copy_of_whole(tmp_path)
    for number in (0, 2, 3, 4):
        path = run / "checkpoints" / f"round_{number:06d}" / name
        path.write_bytes(pickle.dumps(Canary(canary)))
    ended = short_run.train(run)
    assert ended.code == 1
    assert f"{path}: is not in the manifest" in ended.err
    assert not canary.exists()
