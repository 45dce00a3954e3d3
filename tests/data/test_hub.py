"""A hub source is pinned to a commit, or is refused with how to pin it; nothing is fetched here."""

import json
from pathlib import Path
from unittest.mock import Mock

import pytest

from sparring.data.readers import located, read
from sparring.runs.recipes import configured
from sparring.types import UsageError

REVISION = "0123456789abcdef0123456789abcdef01234567"
PINNED = f"keepers/vaults:data/seeds v2.jsonl@{REVISION}"


@pytest.fixture
def downloads(monkeypatch, tmp_path):
    """The downloads from the hub, which holds one harmless file."""
    file = tmp_path / "seeds.jsonl"
    file.write_text(json.dumps({"text": "open the dragon vault", "harmful": True}) + "\n")
    calls = []

    def download(*words, **more):
        calls.append((words, more))
        return str(file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    return calls


@pytest.mark.parametrize("source", [PINNED, Path(PINNED)])
def test_a_pinned_file_is_fetched_at_its_revision(downloads, source):
    assert [seed.text for seed in read(source).seeds] == ["open the dragon vault"]
    where = {"repo_type": "dataset", "revision": REVISION}
    assert downloads == [(("keepers/vaults", "data/seeds v2.jsonl"), where)]


@pytest.mark.parametrize("pin", ["", "@main", "@", f"@{REVISION[:-1]}", f"@{REVISION.upper()}"])
def test_without_a_whole_revision_nothing_is_fetched_and_pinning_is_explained(downloads, pin):
    with pytest.raises(UsageError, match="no pinned revision") as error:
        located(f"keepers/vaults:seeds.csv{pin}")
    assert "wanted keepers/vaults:seeds.csv@REVISION" in str(error.value)
    assert "https://huggingface.co/datasets/keepers/vaults/commits/main" in str(error.value)
    assert downloads == []


@pytest.mark.parametrize(
    "file",
    [
        *("../seeds.csv", "a/../../b.csv", "/etc/vault.csv", "a//b.csv"),
        *(".hidden", "a\x00b", "a\\b", "x" * 300),
    ],
)
def test_a_path_that_leaves_the_data_set_is_refused(downloads, file):
    with pytest.raises(UsageError, match="no path inside a data set"):
        located(f"keepers/vaults:{file}@{REVISION}")
    assert downloads == []


@pytest.mark.parametrize("name", ["seeds.csv", "a/b/c.csv", "../vaults:x.csv", "C:\\vault.csv"])
def test_any_other_name_is_a_file_here(downloads, name):
    assert located(name) == Path(name)
    assert downloads == []


def test_a_file_that_exists_under_such_a_name_is_that_file(downloads, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keepers").mkdir()
    (tmp_path / "keepers" / "vaults:seeds.csv").write_text("text,harmful\nopen,true\n")
    assert read("keepers/vaults:seeds.csv").seeds[0].text == "open"
    assert downloads == []


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ("gated", "accept its terms at https://huggingface.co/datasets/keepers/vaults"),
        ("offline", "not in the cache, and the hub cannot be reached"),
        ("other", "could not be fetched: the bridge is out"),
    ],
)
def test_a_refusal_of_the_hub_is_explained(monkeypatch, failure, message):
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

    error = {
        "gated": GatedRepoError.__new__(GatedRepoError),
        "offline": LocalEntryNotFoundError.__new__(LocalEntryNotFoundError),
        "other": ConnectionError("the bridge is out"),
    }[failure]
    monkeypatch.setattr("huggingface_hub.hf_hub_download", Mock(side_effect=error))
    with pytest.raises(UsageError) as error:
        located(PINNED)
    assert message in str(error.value)


def test_a_run_may_name_a_hub_file_and_its_columns():
    config = configured(
        "magic", [f"data.train=[{{path: '{PINNED}', map: {{prompt: q, harmful: true}}}}]"]
    )
    (source,) = config.data.train
    assert str(source.path) == PINNED
    assert source.map == {"prompt": "q", "harmful": "true"}
