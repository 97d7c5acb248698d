"""Models of the Hugging Face Hub, loaded from and pushed to a local server."""

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from click.testing import CliRunner, Result
from hub_server import HubServer, use_hub
from huggingface_hub import ModelCard, constants

import hear_mwmae
from hear_mwmae import Embedder, HearMwmaeError, weights
from hear_mwmae.cli import main
from hear_mwmae.config import DecoderConfig, EncoderConfig, ModelConfig
from hear_mwmae.hub import CARD_NAME
from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.weights import CONFIG_NAME, WEIGHTS_NAME, read_config

REPO = "org/repo"
AUDIO = torch.sin(torch.arange(16000) * 0.1)[None] / 2
#: httpx about huggingface_hub.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[Path]:
    """Directories of two small models of the same shape."""
    config = ModelConfig(EncoderConfig(32, 1, 2), DecoderConfig(16, 1, 2))
    directories = [tmp_path_factory.mktemp("model") for _ in range(2)]
    for seed, directory in enumerate(directories):
        torch.manual_seed(seed)
        weights.save_model(directory, config, MaskedAutoencoder(config).state_dict())
    return directories


@pytest.fixture
def hub(tmp_path, monkeypatch, models) -> Iterator[HubServer]:
    """A Hub with the first model on the main branch of `REPO`, beside files that nobody needs."""
    with HubServer() as server:
        use_hub(monkeypatch, server.url, tmp_path / "home")
        server.commit(REPO, contents(models[0]))
        yield server
    huggingface_hub.close_session()


def contents(directory: Path) -> dict[str, bytes]:
    """Files of a repository that holds this model and more."""
    files = {file.name: file.read_bytes() for file in directory.iterdir()}
    return {CARD_NAME: b"a card", "optimizer.safetensors": b"large", "model.bin": b"code", **files}


def embed(name: str | Path) -> torch.Tensor:
    """The scene embedding that the model of this name gives."""
    return hear_mwmae.get_scene_embeddings(AUDIO, hear_mwmae.load_model(name))


def refusal(name: str = REPO) -> str:
    """The line in which loading ends."""
    with pytest.raises(HearMwmaeError) as caught:
        hear_mwmae.load_model(name)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_asks_for_two_files_of_one_commit(hub, models):
    assert torch.equal(embed(REPO), embed(models[0]))
    assert not torch.equal(embed(models[0]), embed(models[1]))
    commit = hub.repos[REPO].refs["main"]
    assert hub.asked == {("main", CONFIG_NAME), (commit, WEIGHTS_NAME)}


def test_branch_that_moves_between_the_files(hub, models, monkeypatch):
    """Configuration and weights never come from different commits."""

    def read_and_move(path: Path) -> ModelConfig:
        hub.commit(REPO, contents(models[1]))
        return read_config(path)

    with monkeypatch.context() as moving:
        moving.setattr(weights, "read_config", read_and_move)
        first = embed(REPO)
    assert torch.equal(first, embed(models[0]))
    assert torch.equal(embed(REPO), embed(models[1]))


def test_revisions(hub, models):
    repo = hub.repos[REPO]
    commit = repo.refs["branch/with/slashes"] = repo.refs["main"]
    hub.commit(REPO, contents(models[1]))
    for revision in ("branch/with/slashes", commit):
        assert torch.equal(embed(f"{REPO}@{revision}"), embed(models[0]))
    assert torch.equal(embed(REPO), embed(models[1]))
    old = Embedder.from_pretrained(REPO, revision=commit)
    assert torch.equal(old(AUDIO), embed(models[0]))


def test_wrong_bytes_of_the_right_size(hub, models):
    files = hub.repos[REPO].commits[hub.repos[REPO].refs["main"]]
    data = files[WEIGHTS_NAME]
    files[WEIGHTS_NAME] = data[:-4] + b"\0\0\0\1"
    assert "is damaged: its sha256 is" in refusal()
    files[WEIGHTS_NAME] = data
    again = Embedder.from_pretrained(REPO, force_download=True)
    assert torch.equal(again(AUDIO), embed(models[0]))
    assert torch.equal(embed(REPO), embed(models[0]))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("org/absent", "org/absent is no path, and its config.json cannot be had from the Hub"),
        (f"{REPO}@v9", "Invalid rev id: v9"),
        ("org/no-weights", "model.safetensors cannot be had from the Hub: 404"),
    ],
)
def test_not_there(name, said, hub, models):
    hub.commit("org/no-weights", {CONFIG_NAME: contents(models[0])[CONFIG_NAME]})
    assert said in refusal(name)


def test_token(hub, models, monkeypatch):
    hub.token = "hf_secret"
    assert "private or gated" in refusal()
    given = Embedder.from_pretrained(REPO, token="hf_secret")
    assert torch.equal(given(AUDIO), embed(models[0]))
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "Invalid credentials" in refusal(f"{REPO}@tag")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert torch.equal(embed(REPO), embed(models[0]))


def test_without_a_network(hub, models, monkeypatch):
    hear_mwmae.load_model(REPO)
    hub.asked.clear()
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        assert torch.equal(embed(REPO), embed(models[0]))
        assert "org/other" in refusal("org/other")
    assert not hub.asked
    hub.shutdown()
    hub.server_close()
    huggingface_hub.close_session()
    assert torch.equal(embed(REPO), embed(models[0]))
    assert "check your connection" in refusal("org/other")


def push(*args: object) -> Result:
    return CliRunner().invoke(main, ["push", *map(str, args)])


def test_embedder_push_to_hub(hub, models):
    model = Embedder.from_pretrained(models[0], pooling="max")
    address = model.push_to_hub("org/encoder", commit_message="one", private=True)
    entry = hub.repos["org/encoder"]
    assert entry.private and address.endswith(entry.refs["main"])
    again = Embedder.from_pretrained("org/encoder")
    assert again.config.pooling == "max"
    assert torch.equal(again(AUDIO), model(AUDIO))
    card = ModelCard(entry.commits[entry.refs["main"]][CARD_NAME].decode())
    assert card.data.library_name == "hear-mwmae" and 'load_model("org/encoder")' in card.text


def test_push(model_dir, hub, monkeypatch):
    pushed = {name: (model_dir / name).read_bytes() for name in (CONFIG_NAME, WEIGHTS_NAME)}
    (model_dir / "notes.txt").write_bytes(b"private")
    hub.token = "hf_secret"
    result = push(model_dir, "org/new")
    assert result.exit_code == 1 and "cannot push to org/new: 401" in result.stderr
    assert len(result.stderr.splitlines()) == 1 and "org/new" not in hub.repos
    monkeypatch.setenv("HF_TOKEN", hub.token)
    for _ in range(2):  # the second time the repository is there
        result = push(model_dir, "org/new", "--private")
        assert result.exit_code == 0, result.output
    entry = hub.repos["org/new"]
    commit = entry.refs["main"]
    assert result.stdout == f"{hub.url}/org/new/commit/{commit}\n"
    assert len(entry.commits) == 2 and entry.private
    card = entry.commits[commit].pop(CARD_NAME)
    assert entry.commits[commit] == pushed and b'load_model("org/new")' in card
    (model_dir / CARD_NAME).write_bytes(b"my card")
    assert push(model_dir, "org/third").exit_code == 0
    third = hub.repos["org/third"]
    assert third.commits[third.refs["main"]] == pushed | {CARD_NAME: b"my card"}
    assert torch.equal(embed("org/new"), embed(model_dir))
    # A folder with the name of a registered model is that folder, of which the weights are missing.
    (model_dir / "mwmae-tiny").mkdir()
    monkeypatch.chdir(model_dir)
    assert push(Path("mwmae-tiny"), "org/other").exit_code == 1 and "org/other" not in hub.repos
