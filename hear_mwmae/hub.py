"""Models on the Hugging Face Hub: names, download of one commit, upload of a directory with its
card.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitOperationAdd, HfApi, constants, hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from .errors import HearMwmaeError, reason
from .files import write_text

if TYPE_CHECKING:
    from torch import nn

    from .config import ModelConfig
    from .embedder import Embedder

CONFIG_NAME, WEIGHTS_NAME, CARD_NAME = "config.json", "model.safetensors", "README.md"
#: What a card may show or name: the loss curve, and the sources of the audio.
OF_CARD = ("loss.png", "audio.csv")

_NAME = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:(?:@|/tree/)([\w./-]+?))?/?")


def parse_name(name: str) -> tuple[str, str | None] | None:
    """Repository and revision of ``org/repo``, ``org/repo@revision``, the same after ``hf://``, or
    the address of a page of the Hub; None if ``name`` is nothing of these.
    """
    for prefix in ("hf://", f"{constants.ENDPOINT}/", "https://huggingface.co/", "https://hf.co/"):
        name = name.removeprefix(prefix)
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
    try:
        return Path(hf_hub_download(repo, name, revision=revision, **options))
    except RepositoryNotFoundError as error:
        raise HearMwmaeError(
            f"no access to {where} on the Hub ({_reason(error)}); if it is private or gated, "
            "accept its terms on its page and set HF_TOKEN"
        ) from error
    except Exception as error:  # of the Hub, of huggingface_hub's HTTP client, of the disk
        cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else None
        raise HearMwmaeError(
            f"cannot get {name} of {where} from the Hub: {_reason(cause or error)}"
        ) from error


def files_to_push(directory: Path, card: str) -> dict[str, Path | bytes]:
    """What `push` uploads of a model directory: name -> file, or content."""
    if missing := missing_files(directory):
        raise HearMwmaeError(f"{directory} holds no model: {missing} missing")
    files = {name: directory / name for name in (CONFIG_NAME, WEIGHTS_NAME, *OF_CARD)}
    there: dict[str, Path | bytes] = {name: file for name, file in files.items() if file.is_file()}
    return {**there, CARD_NAME: card.encode()}


def push(
    files: dict[str, Path | bytes], repo: str, private: bool | None = None, **options: Any
) -> str:
    """Upload files in one commit; returns its address.

    Args:
        options: of `huggingface_hub.HfApi.create_commit`, such as ``token`` and ``revision``.
    """
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    options.setdefault("commit_message", "Upload model")
    try:
        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True, token=options.get("token"))
        return api.create_commit(repo, operations, **options).commit_url
    except Exception as error:  # a refusal, no network, an upload that breaks off
        said = f"cannot push to {repo}: {_reason(error)}; is HF_TOKEN set, with write access?"
        raise HearMwmaeError(said) from error


class HubModel:
    """The methods of huggingface_hub's `ModelHubMixin` for an `Embedder`, by the same names and
    arguments. The mixin itself takes no registered names, files or ``org/repo@revision``, and would
    read the configuration by other rules.
    """

    config: ModelConfig
    encoder: nn.Module

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

    def save_pretrained(self, save_directory: str | os.PathLike) -> None:
        """Write config.json, model.safetensors and a model card.

        The weights are the encoder's: the decoder, which pretraining needs, was not loaded.
        """
        from .card import model_card
        from .weights import ENCODER_PREFIX, save_model

        directory = Path(save_directory)
        state = {ENCODER_PREFIX + name: value for name, value in self.encoder.state_dict().items()}
        save_model(directory, self.config, state)
        write_text(directory / CARD_NAME, model_card(directory, str(directory)))

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
        from .card import model_card

        options = {"commit_message": commit_message, "token": token, "create_pr": create_pr}
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            files = files_to_push(Path(folder), model_card(folder, repo_id))
            return push(files, repo_id, private, revision=branch, **options)


def missing_files(directory: Path) -> str:
    """Which of the two files of a model ``directory`` lacks, in words; "" if none."""
    names = (CONFIG_NAME, WEIGHTS_NAME)
    return " and ".join(name for name in names if not (directory / name).is_file())


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _reason(error: BaseException) -> str:
    """`reason`, and the first line of what the server said."""
    said = str(getattr(error, "server_message", None) or "").strip().partition("\n")[0]
    why = reason(error)
    return f"{why}: {said}" if said and said not in why else why
