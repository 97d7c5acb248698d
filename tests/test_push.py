"""`hear_mwmae.hub.push`: the dry run, and a real upload to a local server."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from hub_server import HubServer, use_hub

from hear_mwmae import hub as pushing
from hear_mwmae.card import model_card
from hear_mwmae.checkpoint import save_model
from hear_mwmae.mae import MaskedAutoencoder

REPO = "org/repo"
CARD = "---\nlicense: apache-2.0\n---\n# A model, ünïcode\n"
FILES = {"config.json": b'{"a": 1}\n', "model.safetensors": bytes(range(256)) * 64, "loss.png": b"a picture"}
#: httpx about huggingface_hub.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
UPLOADED = {**FILES, "README.md": CARD.encode()}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model directory, with a file that is not to go up.

    What is in the files does not matter here.
    """
    directory = tmp_path / "model"
    directory.mkdir()
    for name, data in {**FILES, "notes.txt": b"private", "README.md": b"another card"}.items():
        (directory / name).write_bytes(data)
    return directory


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """An empty Hub."""
    with HubServer() as server:
        use_hub(monkeypatch, server.url, tmp_path / "home")
        yield server
    huggingface_hub.close_session()


def contents(directory: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


def refusal(model: Path, repo: str = REPO, dry_run: Path | None = None) -> str:
    """The single line of the ValueError that pushing ends in."""
    with pytest.raises(ValueError) as caught:
        pushing.push(model, repo, CARD, dry_run=dry_run)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("there", ["absent", "absent/deep", "empty"])
def test_dry_run(there: str, model: Path, hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    said = pushing.push(model, REPO, CARD, dry_run=tmp_path / there)
    assert said == f"config.json, model.safetensors, loss.png, README.md -> {tmp_path / there}"
    assert contents(tmp_path / there) == UPLOADED
    assert hub.requests == []


def test_dry_run_refuses_a_folder_in_use(model: Path, tmp_path: Path) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "thesis.tex").write_text("years of work")
    assert "used is not an empty folder" in refusal(model, dry_run=used)
    assert contents(used) == {"thesis.tex": b"years of work"}
    assert "thesis.tex is not an empty folder" in refusal(model, dry_run=used / "thesis.tex")


@pytest.mark.parametrize("missing", [["config.json"], ["model.safetensors"], ["config.json", "model.safetensors"]])
def test_refuses_what_is_no_model(missing: list[str], model: Path, hub: HubServer, tmp_path: Path) -> None:
    for name in missing:
        (model / name).unlink()
    for dry_run in (None, tmp_path / "dry"):
        assert f"{model} holds no model: {' and '.join(missing)} missing" in refusal(model, dry_run=dry_run)
    assert not (tmp_path / "dry").exists()
    assert hub.requests == []


@pytest.mark.parametrize("repo", ["", "repo", "org/", "/repo", "a/b/c", "org/repo@main", "https://x/org/repo"])
def test_refuses_a_wrong_name(repo: str, model: Path, hub: HubServer, tmp_path: Path) -> None:
    for dry_run in (None, tmp_path / "dry"):
        assert f"org/repo, got {repo!r}" in refusal(model, repo, dry_run)
    assert not (tmp_path / "dry").exists()
    assert hub.requests == []


@pytest.mark.parametrize("private", [False, True])
def test_upload(private: bool, model: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "hf_secret"
    monkeypatch.setenv("HF_TOKEN", hub.token)
    said = pushing.push(model, REPO, CARD, private=private)
    (commit,) = hub.repos[REPO].commits
    assert said == f"config.json, model.safetensors, loss.png, README.md -> {hub.url}/{REPO}/commit/{commit}"
    assert hub.repos[REPO].refs == {"main": commit}
    assert hub.repos[REPO].commits[commit] == UPLOADED
    assert hub.repos[REPO].private == private


def test_second_upload_to_the_same_repository(model: Path, hub: HubServer) -> None:
    pushing.push(model, REPO, CARD)
    (model / "config.json").write_bytes(b"{}")
    pushing.push(model, REPO, CARD)
    entry = hub.repos[REPO]
    assert len(entry.commits) == 2
    assert entry.commits[entry.refs["main"]] == {**UPLOADED, "config.json": b"{}"}


def test_download_of_what_was_uploaded(model: Path, hub: HubServer) -> None:
    pushing.push(model, REPO, CARD)
    config, weights = pushing.download(REPO, "", lambda config: None)
    assert {file.name: file.read_bytes() for file in (config, weights)} == {
        name: FILES[name] for name in ("config.json", "model.safetensors")
    }


@pytest.mark.parametrize("token", ["", "hf_wrong"])
def test_upload_without_write_access(token: str, model: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "hf_secret"
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    message = refusal(model)
    assert REPO in message and "is HF_TOKEN set, with write access?" in message
    assert hub.repos == {}


@pytest.mark.parametrize("way", ["server gone", "offline"])
def test_upload_without_network(way: str, model: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "server gone":
        hub.shutdown()
        hub.server_close()
    else:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = refusal(model)
    assert f"cannot push to {REPO}: " in message
    assert ("refused" if way == "server gone" else "HF_HUB_OFFLINE") in message
    assert hub.requests == []


def test_the_card_says_how_to_get_the_papers_pooling(tmp_path, small_config):
    torch.manual_seed(0)
    state = MaskedAutoencoder(small_config).state_dict()
    save_model(tmp_path / "mean", small_config, state)
    save_model(tmp_path / "all", dataclasses.replace(small_config, pooling="mean+std+max"), state)
    assert "pooling" not in model_card(tmp_path / "mean", "org/model")
    card = model_card(tmp_path / "all", "org/model")
    assert "(clips, 480)" in card and 'load_model("org/model", pooling="mean")' in card and "160 numbers per clip" in card
