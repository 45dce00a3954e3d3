"""Another person's run directory spends none of the operator's secrets without being confirmed."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.command import sparring_command
from tests.transport.server import Script, serving

from sparring.evals.crossplay import entrants
from sparring.evals.exploit import Budget, Exploit
from sparring.runs.judges import check_endpoints, entries
from sparring.settings.config import parse
from sparring.types import UsageError

URL = "https://dragon.example/v1"
SERVED = {"kind": "qwen3guard", "model": "guard", "base_url": URL}
NAMED = {
    "a judge's server": ({"judge": SERVED}, "judge.base_url https://dragon.example/v1"),
    "a password in its URL": (
        {"judge": SERVED | {"base_url": "https://me:hunter2@dragon.example/v1?k=hunter2"}},
        "judge.base_url https://dragon.example/v1.",
    ),
    "its key": (
        {"judge": SERVED | {"server": {"api_key_env": "VAULT_KEY"}}},
        "with the variable VAULT_KEY",
    ),
    "its proxy": ({"judge": SERVED | {"server": {"proxy_env": "VAULT_PROXY"}}}, "VAULT_PROXY"),
    "the second of two judges": ({"judge": [{"kind": "keyword"}, SERVED]}, "judge.base_url"),
    "the exam's judge": ({"exam": {"judge": SERVED}}, "exam.judge.base_url"),
    "a cache without a server": (
        {"judge": {"kind": "qwen3guard", "model": "guard", "cache": "/vault/answers.sqlite"}},
        "judge.cache /vault/answers.sqlite",
    ),
    "the players' server": ({"sampling": {"base_url": URL}}, "sampling.base_url"),
    "the adapters' folder": (
        {"sampling": {"server": {"adapter_dir": "/vault"}}},
        "sampling.server.adapter_dir /vault",
    ),
}


@pytest.mark.parametrize(("config", "shown"), NAMED.values(), ids=NAMED)
def test_what_a_run_names_is_shown_and_refused_unless_it_is_trusted(config, shown):
    config = parse({"recipe": "magic"} | config)
    with pytest.raises(UsageError, match="--trust-endpoints") as error:
        check_endpoints(config, Path("theirs"), trusted=False)
    assert shown in str(error.value)
    assert "theirs/config.yaml" in str(error.value)
    assert "hunter2" not in str(error.value)
    check_endpoints(config, Path("theirs"), trusted=True)
    check_endpoints(parse({"judge": {"kind": "keyword"}}), Path("theirs"), trusted=False)


def test_playing_on_with_a_run_is_refused_before_anything_is_loaded(tmp_path):
    run = SimpleNamespace(config=parse({"judge": SERVED}), folder=tmp_path, checkpoints=None)
    with pytest.raises(UsageError, match=r"dragon\.example"):
        Exploit(run, 0, Budget(), tmp_path / "cache").measure(["pool"])
    with pytest.raises(UsageError, match=r"dragon\.example"):
        entrants(run, [0])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "rest", ["/@api.example/v1", "/v1?to=@api.example", "#@api.example", ":8/@"]
)
def test_the_host_that_is_shown_is_the_one_that_would_be_called(rest):
    judge = SERVED | {"base_url": f"https://dragon.example{rest}"}
    with pytest.raises(UsageError, match=r"judge\.base_url https://dragon\.example"):
        check_endpoints(parse({"judge": judge}), Path("theirs"), trusted=False)


@pytest.mark.parametrize("verb", ["probe", "score"])
def test_a_runs_own_configuration_is_no_judges_file_of_the_operators(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VAULT_KEY", "sk-canary")
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "replies.jsonl").write_text('{"prompt": "open it", "response": "no"}\n')
    words = {
        "probe": ["judge", "probe", "config.yaml"],
        "score": ["judge", "score", "replies.jsonl", "--judge", "config.yaml"],
    }[verb]
    with serving(Script(reply=lambda _: (418, {}, b"I am a teapot"))) as (url, requests):
        (tmp_path / "config.yaml").write_text(
            f"judge: {{kind: qwen3guard, model: guard, base_url: '{url}', "
            "server: {api_key_env: VAULT_KEY}}\n"
        )
        refused = sparring_command(*words)
        assert (refused.code, requests.calls) == (2, 0)
        assert "VAULT_KEY" in refused.text
        assert "sk-canary" not in refused.text
        sparring_command(*words, "--trust-endpoints")
        assert requests.calls > 0
    (tmp_path / "run.json").unlink()
    assert len(entries("config.yaml")) == 1
