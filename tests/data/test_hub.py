"""A hub source is pinned to a commit, or is refused with how to pin it; nothing is fetched here."""

from pathlib import Path
from unittest.mock import Mock

import pytest
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError
from tests.data.examples import VAULT, refused, written

from sparring.data.readers import located, read
from sparring.runs.recipes import configured

REVISION = "0123456789abcdef0123456789abcdef01234567"
PINNED = f"keepers/vaults:data/seeds v2.jsonl@{REVISION}"


@pytest.fixture
def download(monkeypatch, tmp_path):
    """Replaces the download from the hub by a local file with one harmless seed."""
    file = written(tmp_path / "seeds.jsonl", [{"text": VAULT, "harmful": True}])
    double = Mock(return_value=str(file))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", double)
    return double


@pytest.mark.parametrize("source", [PINNED, Path(PINNED)])
def test_a_pinned_file_is_fetched_at_its_revision(download, source):
    assert [seed.text for seed in read(source).seeds] == [VAULT]
    download.assert_called_once_with(
        "keepers/vaults", "data/seeds v2.jsonl", repo_type="dataset", revision=REVISION
    )


@pytest.mark.parametrize("pin", ["", "@main", "@", f"@{REVISION[:-1]}", f"@{REVISION.upper()}"])
def test_without_a_whole_revision_nothing_is_fetched_and_pinning_is_explained(download, pin):
    message = refused(f"keepers/vaults:seeds.csv{pin}", located)
    assert "no pinned revision; wanted keepers/vaults:seeds.csv@REVISION" in message
    assert "https://huggingface.co/datasets/keepers/vaults/commits/main" in message
    download.assert_not_called()


@pytest.mark.parametrize(
    "file",
    [
        *("../seeds.csv", "a/../../b.csv", "/etc/vault.csv", "a//b.csv"),
        *(".hidden", "a\x00b", "a\\b", "x" * 300),
    ],
)
def test_a_path_that_leaves_the_data_set_is_refused(download, file):
    message = refused(f"keepers/vaults:{file}@{REVISION}", located)
    assert "no path inside a data set" in message
    download.assert_not_called()


@pytest.mark.parametrize("name", ["seeds.csv", "a/b/c.csv", "../vaults:x.csv", "C:\\vault.csv"])
def test_any_other_name_is_a_file_here(download, name):
    assert located(name) == Path(name)
    download.assert_not_called()


def test_a_file_that_exists_under_such_a_name_is_that_file(download, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keepers").mkdir()
    (tmp_path / "keepers" / "vaults:seeds.csv").write_text("text,harmful\nopen,true\n")
    assert read("keepers/vaults:seeds.csv").seeds[0].text == "open"
    download.assert_not_called()


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (
            GatedRepoError.__new__(GatedRepoError),
            "accept its terms at https://huggingface.co/datasets/keepers/vaults",
        ),
        (
            LocalEntryNotFoundError.__new__(LocalEntryNotFoundError),
            "not in the cache, and the hub cannot be reached",
        ),
        (ConnectionError("the bridge is out"), "could not be fetched: the bridge is out"),
    ],
)
def test_a_refusal_of_the_hub_is_explained(download, failure, message):
    download.side_effect = failure
    assert message in refused(PINNED, located)


def test_a_run_may_name_a_hub_file_and_its_columns():
    source = f"{{path: '{PINNED}', map: {{prompt: q, harmful: true}}}}"
    (settings,) = configured("magic", [f"data.train=[{source}]"]).data.train
    assert str(settings.path) == PINNED
    assert settings.map == {"prompt": "q", "harmful": "true"}
