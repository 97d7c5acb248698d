"""`hear_mwmae.load_model` from the Hugging Face Hub, against a local server that can be told to
fail.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from hub_server import HubServer, Request, use_hub
from huggingface_hub import constants

import hear_mwmae
from hear_mwmae import checkpoint
from hear_mwmae.config import DecoderConfig, EncoderConfig, ModelConfig
from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.weights import Entry

REPO = "org/repo"
CONFIG, WEIGHTS = checkpoint.CONFIG_NAME, checkpoint.WEIGHTS_NAME
AUDIO = torch.sin(torch.arange(16000) * 0.1)[None] / 2
#: Prints the embedding that a process of its own computes, with the environment that it was started
#: with.
SCRIPT = """
import json, sys, torch, hear_mwmae
model = hear_mwmae.load_model(sys.argv[1])
print(json.dumps(hear_mwmae.get_scene_embeddings(torch.sin(torch.arange(16000) * 0.1)[None] / 2, model).tolist()))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Directories of two small models of the same shape."""
    config = ModelConfig(EncoderConfig(32, 1, 2), DecoderConfig(16, 1, 2))
    directories = [tmp_path_factory.mktemp("model") for _ in range(2)]
    for seed, directory in enumerate(directories):
        torch.manual_seed(seed)
        checkpoint.save_model(directory, config, MaskedAutoencoder(config).state_dict())
    return directories


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home folder of huggingface_hub."""
    return tmp_path / "home"


@pytest.fixture
def hub(home: Path, monkeypatch: pytest.MonkeyPatch, models: list[Path]) -> Iterator[HubServer]:
    """A Hub with the first model on the main branch of `REPO`, beside files that nobody needs."""
    with HubServer() as server:
        use_hub(monkeypatch, server.url, home)
        server.commit(REPO, contents(models[0]))
        yield server
    huggingface_hub.close_session()


def contents(directory: Path) -> dict[str, bytes]:
    """Files of a repository that holds this model and more."""
    files = {file.name: file.read_bytes() for file in directory.iterdir()}
    return {"README.md": b"a card", "optimiser.safetensors": b"large", "pytorch_model.bin": b"code", **files}


def embed(name: str | Path) -> torch.Tensor:
    """The scene embedding that the model of this name gives."""
    return hear_mwmae.get_scene_embeddings(AUDIO, hear_mwmae.load_model(name))


def refusal(name: str = REPO, naming: str = REPO) -> str:
    """The message of the ValueError that loading ends in: a single line which names the
    repository.
    """
    with pytest.raises(ValueError) as caught:
        hear_mwmae.load_model(name)
    message = str(caught.value)
    assert type(caught.value) is HearMwmaeError
    assert len(message.splitlines()) == 1
    assert naming in message
    return message


def sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file, not by the code under test."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_same_model_as_local_directory(hub: HubServer, models: list[Path]) -> None:
    assert torch.equal(embed(REPO), embed(models[0]))
    assert not torch.equal(embed(models[0]), embed(models[1]))


def test_asks_for_two_files_of_one_commit(hub: HubServer) -> None:
    hear_mwmae.load_model(REPO)
    commit = hub.repos[REPO].refs["main"]
    assert hub.asked_for("HEAD") == [("main", CONFIG), (commit, WEIGHTS)]
    assert {name for _, name in hub.asked_for()} == {CONFIG, WEIGHTS}
    assert len(hub.from_storage()) == 1
    assert not [request for request in hub.requests if "/api/models/" in request.path]


def test_branch_that_moves_between_the_files(hub: HubServer, models: list[Path]) -> None:
    """Configuration and weights never come from different commits."""

    def move(request: Request) -> None:
        if request.resolved and request.resolved[2] == CONFIG and request.method == "GET":
            hub.commit(REPO, contents(models[1]))
            hub.before = lambda request: None

    hub.before = move
    first = embed(REPO)
    assert len(hub.repos[REPO].commits) == 2
    assert torch.equal(first, embed(models[0]))
    assert torch.equal(embed(REPO), embed(models[1]))


@pytest.mark.parametrize("kind", ["branch", "branch/with/slashes", "tag", "commit"])
def test_revision_pins(kind: str, hub: HubServer, models: list[Path]) -> None:
    repo = hub.repos[REPO]
    commit = repo.refs["main"]
    revision = commit if kind == "commit" else kind
    if kind != "commit":
        repo.refs[revision] = commit
    hub.commit(REPO, contents(models[1]))
    for _ in range(2):
        assert torch.equal(embed(f"{REPO}@{revision}"), embed(models[0]))
        assert torch.equal(embed(REPO), embed(models[1]))


def test_moved_branch_is_followed(hub: HubServer, models: list[Path]) -> None:
    before = embed(f"{REPO}@main")
    hub.commit(REPO, contents(models[1]))
    assert torch.equal(before, embed(models[0]))
    assert torch.equal(embed(f"{REPO}@main"), embed(models[1]))


def test_second_call_uses_the_cache(hub: HubServer) -> None:
    hear_mwmae.load_model(REPO)
    commit = hub.repos[REPO].refs["main"]
    hub.requests.clear()
    hear_mwmae.load_model(REPO)
    assert [request.method for request in hub.requests] == ["HEAD"]  # where the branch points to now
    assert hub.asked_for() == [("main", CONFIG)]
    hub.requests.clear()
    hear_mwmae.load_model(f"{REPO}@{commit}")
    assert hub.requests == []


def test_cut_connection_is_resumed(hub: HubServer, models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)  # what arrived in whole chunks is kept
    hub.cut_at, hub.cuts = 10_000, 1
    with contextlib.suppress(ValueError):  # huggingface_hub 2 asks for the rest by itself, 1 in the next call
        hear_mwmae.load_model(REPO)
    assert torch.equal(embed(REPO), embed(models[0]))
    ranges = [request.headers.get("range") for request in hub.from_storage()]
    assert ranges[0] is None
    assert len(ranges) == 2 and 0 < int(ranges[1].removeprefix("bytes=").removesuffix("-")) <= hub.cut_at


@pytest.mark.parametrize("way", ["connection cut", "file too short"])
def test_truncated_download(way: str, hub: HubServer, models: list[Path], home: Path) -> None:
    data, announced = (models[0] / WEIGHTS).read_bytes(), sha256(models[0] / WEIGHTS)
    if way == "connection cut":
        hub.cut_at, hub.cuts = 10_000, 1000
    else:
        hub.storage[announced] = data[:10_000]
    assert WEIGHTS in refusal()
    assert not cached(home, WEIGHTS)
    hub.cuts, hub.storage[announced] = 0, data
    assert torch.equal(embed(REPO), embed(models[0]))


def test_wrong_bytes_of_the_right_size(hub: HubServer, models: list[Path], home: Path) -> None:
    data, announced = (models[0] / WEIGHTS).read_bytes(), sha256(models[0] / WEIGHTS)
    hub.storage[announced] = data[:-4] + b"\0\0\0\1"
    assert announced in refusal()
    assert not cached(home, WEIGHTS)
    assert not cached(home, announced)
    hub.storage[announced] = data
    assert torch.equal(embed(REPO), embed(models[0]))


def cached(home: Path, name: str) -> list[Path]:
    """Files and links of this name in the cache, dangling links among them."""
    return [path for path in (home / "hub").rglob(name) if ".locks" not in path.parts]


def share_blob(home: Path, announced: str) -> Path:
    """Move a blob to where huggingface_hub 2 shares what came by Xet: under another hash, behind a
    second link.
    """
    (blob,) = cached(home, announced)
    shared = home / "hub" / "blobs" / "ab" / ("ab" * 32)
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(os.path.relpath(shared, blob.parent))
    return shared


def test_blob_in_the_shared_store_of_xet(hub: HubServer, models: list[Path], home: Path) -> None:
    hear_mwmae.load_model(REPO)
    shared = share_blob(home, sha256(models[0] / WEIGHTS))
    assert torch.equal(embed(REPO), embed(models[0]))
    shared.write_bytes(shared.read_bytes()[:-4] + b"\0\0\0\1")
    assert sha256(models[0] / WEIGHTS) in refusal()
    assert not shared.exists()  # else the next call would find it again, and only compare its size
    assert torch.equal(embed(REPO), embed(models[0]))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("org/absent", "no repository org/absent"),
        ("org/absent@v1", "no repository org/absent@v1"),
        (f"{REPO}@v9", "no revision 'v9'"),
        (f"{REPO}@{'0' * 40}", "no revision"),
        ("org/no-weights", f"has no {WEIGHTS}"),
        ("org/no-config", f"has no {CONFIG}"),
        ("org/a--b", "not a Hub repository"),
    ],
)
def test_not_there(name: str, said: str, hub: HubServer, models: list[Path]) -> None:
    for missing, repo in ((WEIGHTS, "org/no-weights"), (CONFIG, "org/no-config")):
        hub.commit(repo, {file: data for file, data in contents(models[0]).items() if file != missing})
    assert said in refusal(name, naming=name.partition("@")[0])


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((401, "RepoNotFound", "Repository not found"), "no repository org/repo on the Hub; if it is private"),
        ((401, "", "Invalid username or password."), "Invalid username or password"),
        ((401, "GatedRepo", "Access to model org/repo is restricted"), "gated: accept its terms"),
        ((403, "GatedRepo", "Access to model org/repo is restricted"), "gated: accept its terms"),
        ((403, "", "Access to this resource is disabled."), "Access to this resource is disabled"),
        ((404, "", ""), "404"),
        ((503, "", ""), "503"),
    ],
)
def test_refused(answer: tuple[int, str, str], said: str, hub: HubServer) -> None:
    hub.refusal = answer
    assert said in refusal()


def test_token(hub: HubServer, models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "hf_secret"
    assert "HF_TOKEN" in refusal()
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "Invalid credentials" in refusal()
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert torch.equal(embed(REPO), embed(models[0]))
    assert [request.headers.get("authorization") for request in hub.from_storage()] == [None]


def test_offline(hub: HubServer, models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    hear_mwmae.load_model(REPO)
    commit = hub.repos[REPO].refs["main"]
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in (REPO, f"{REPO}@{commit}"):
        assert torch.equal(embed(name), embed(models[0]))
    for name in ("org/other", f"{REPO}@v1"):
        assert "HF_HUB_OFFLINE" in refusal(name, naming=name)
    assert hub.requests == []


def test_hub_that_cannot_be_reached(hub: HubServer, models: list[Path]) -> None:
    hear_mwmae.load_model(REPO)
    hub.shutdown()
    hub.server_close()
    huggingface_hub.close_session()
    assert torch.equal(embed(REPO), embed(models[0]))
    assert "not in the cache" in refusal("org/other", naming="org/other")


@pytest.mark.parametrize("text", ["{", "[]", '{"encoder": {}}'])
def test_invalid_configuration(text: str, hub: HubServer, models: list[Path]) -> None:
    hub.commit(REPO, {**contents(models[0]), CONFIG: text.encode()})
    assert CONFIG in refusal(naming="org--repo")
    assert {file for _, file in hub.asked_for()} == {CONFIG}  # the weights, which may be large, were not asked for


@pytest.fixture
def entry(hub: HubServer, models: list[Path], monkeypatch: pytest.MonkeyPatch) -> Entry:
    """A registry whose one entry, "known", is a pinned commit of the Hub; the branch has moved on
    since.
    """
    commit = hub.repos[REPO].refs["main"]
    sums = {name: sha256(models[0] / name) for name in (CONFIG, WEIGHTS)}
    entry = Entry("a model", "CC0-1.0", repo=REPO, revision=commit, sha256=sums)
    monkeypatch.setattr(checkpoint, "registry", lambda: {"known": entry})
    hub.commit(REPO, contents(models[1]))
    return entry


def test_registered_model(entry: Entry, hub: HubServer, models: list[Path]) -> None:
    assert torch.equal(embed("known"), embed(models[0]))
    assert {revision for revision, _ in hub.asked_for()} == {entry.revision}


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_registered_model_with_another_sha256(name: str, entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = dataclasses.replace(entry, sha256={**entry.sha256, name: "0" * 64})
    monkeypatch.setattr(checkpoint, "registry", lambda: {"known": changed})
    message = refusal("known", naming="org--repo")
    assert "not the registered known" in message and name in message and "0" * 64 in message


def test_official_model_is_not_delivered(hub: HubServer) -> None:
    message = refusal("mwmae-base-official", naming="mwmae-base-official")
    assert "hear-mwmae convert" in message and "mwmae-jax-official" in message
    assert hub.requests == []


def test_environment_variables(hub: HubServer, models: list[Path], home: Path) -> None:
    """HF_ENDPOINT, HF_HOME, HF_TOKEN and then HF_HUB_OFFLINE, as a user sets them."""
    hub.token = "hf_secret"
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": hub.token}
    expected = embed(models[0]).tolist()
    for offline in ({}, {"HF_HUB_OFFLINE": "1"}):
        hub.requests.clear()
        command = [sys.executable, "-c", SCRIPT, REPO]
        run = subprocess.run(command, env=environment | offline, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        assert json.loads(run.stdout) == expected
        assert bool(hub.from_storage()) == (not offline)
    assert hub.requests == []
    assert cached(home, WEIGHTS)
