"""Models on the Hugging Face Hub: names, download of a file, upload of a folder."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi, hf_hub_download

from .errors import HearMwmaeError
from .files import write_text

if TYPE_CHECKING:
    from torch import Tensor

    from .config import ModelConfig
    from .embedder import Embedder

CONFIG_NAME, WEIGHTS_NAME, CARD_NAME = "config.json", "model.safetensors", "README.md"
#: What `hear-mwmae push` uploads. A card may show the loss curve and name the sources of the audio.
UPLOADED = (CONFIG_NAME, WEIGHTS_NAME, CARD_NAME, "loss.png", "audio.csv")

_NAME = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+))?")


def parse_name(name: str) -> tuple[str, str | None] | None:
    """Repository and revision of ``org/repo`` or ``org/repo@revision``; None for any other name."""
    found = _NAME.fullmatch(name)
    return (found[1], found[2]) if found else None


def fetch(repo: str, name: str, revision: str | None = None, **options: Any) -> Path:
    """A file of a repository, in huggingface_hub's cache: ``snapshots/<commit>/<name>``.

    HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE have their usual meaning.

    Args:
        revision: branch, tag or commit; the repository's default branch when None.
        options: of `huggingface_hub.hf_hub_download`, such as ``token`` and ``cache_dir``.
    """
    where = f"{repo}@{revision}" if revision else repo
    with _in_one_line(f"{where} is no path, and its {name} cannot be had from the Hub"):
        return Path(hf_hub_download(repo, name, revision=revision, **options))


def upload(
    folder: str | Path,
    repo: str,
    private: bool | None = None,
    token: str | None = None,
    **options: Any,
) -> str:
    """Upload the files of a folder in one commit; returns its address.

    Args:
        private: whether a new repository is.
        options: of `huggingface_hub.HfApi.upload_folder`, such as ``revision``.
    """
    options.setdefault("commit_message", "Upload model")
    with _in_one_line(f"cannot push to {repo}"):
        api = HfApi(token=token)
        api.create_repo(repo, private=private, exist_ok=True)
        return api.upload_folder(repo_id=repo, folder_path=folder, **options).commit_url


@contextmanager
def _in_one_line(what: str) -> Iterator[None]:
    """An error of the Hub, of huggingface_hub's HTTP client or of the disk -> HearMwmaeError."""
    try:
        yield
    except Exception as error:
        raise HearMwmaeError(f"{what}: {' '.join(str(error).split())}") from error


class HubModel:
    """The methods of huggingface_hub's `ModelHubMixin` for an `Embedder`, by the same names and
    arguments. The mixin itself takes no registered names, files or ``org/repo@revision``, and would
    read the configuration by other rules.
    """

    config: ModelConfig
    state_dict: Callable[[], dict[str, Tensor]]

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike = "",
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        **options: Any,
    ) -> Embedder:
        """Load a model by any name that `hear_mwmae.load_model` takes, with its other options.

        Args:
            revision: branch, tag or commit of a model on the Hub.
            token: of the Hub, instead of HF_TOKEN; likewise the further arguments, see
                `huggingface_hub.hf_hub_download`.
        """
        from .weights import load_embedder  # only here: it imports `Embedder`

        download = {
            "token": token,
            "cache_dir": cache_dir,
            "force_download": force_download,
            "local_files_only": local_files_only,
        }
        name = pretrained_model_name_or_path
        return load_embedder(name, revision=revision, download=download, **options)

    def save_pretrained(
        self, save_directory: str | os.PathLike, *, repo_id: str | None = None
    ) -> None:
        """Write config.json and model.safetensors, and a model card for a repository.

        The weights are the encoder's, in the precision it was loaded in: the decoder, which
        pretraining needs, was not loaded.

        Args:
            repo_id: the name that the card says to load; no card when None.
        """
        from .card import model_card
        from .weights import save_model

        directory = Path(save_directory)
        save_model(directory, self.config, self.state_dict())
        if repo_id:
            write_text(directory / CARD_NAME, model_card(self.config, repo_id))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload model",
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
    ) -> str:
        """Upload what `save_pretrained` writes, in one commit; returns the commit's address."""
        options = {"commit_message": commit_message, "revision": branch, "create_pr": create_pr}
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, repo_id=repo_id)
            return upload(folder, repo_id, private, token, **options)
