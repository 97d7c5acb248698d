"""Models on the Hugging Face Hub: download a pinned revision, push a directory with its card."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .errors import HearMwmaeError

CONFIG_NAME, WEIGHTS_NAME, CARD_NAME = "config.json", "model.safetensors", "README.md"
#: Picture of the loss curve, which a card may show.
LOSS_NAME = "loss.png"


def download(repo: str, revision: str, check_config: Callable[[Path], object]) -> tuple[Path, Path]:
    """Fetch config.json and model.safetensors of ``repo``, and nothing else, into huggingface_hub's
    cache.

    HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE have their usual meaning. Both files come from
    one commit, even if the branch moves in between. Raises HearMwmaeError, one line, if the
    download fails.

    Args:
        revision: branch, tag or commit; "" is the repository's default branch.
        check_config: called with config.json before the weights, which may be large, are
            downloaded; raises to stop.
    """
    config = _fetch(repo, CONFIG_NAME, revision or None)
    check_config(config)
    # Paths in the cache are snapshots/<commit>/<name>: the second file is requested by that commit.
    weights = _fetch(repo, WEIGHTS_NAME, config.parent.name)
    return config, weights


def push(directory: Path, repo: str, card: str, private: bool = False, dry_run: Path | None = None) -> str:
    """Upload a model directory with its card in one commit; returns a line with every file and its
    destination.

    With ``dry_run`` nothing is uploaded: the files are copied to that folder, which must be new or
    empty.
    """
    missing = [name for name in (CONFIG_NAME, WEIGHTS_NAME) if not (directory / name).is_file()]
    if missing:
        raise HearMwmaeError(f"directory {directory} holds no model: {' and '.join(missing)} missing")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise HearMwmaeError(f"a Hub repository is written org/repo, got {repo!r}")
    files = [name for name in (CONFIG_NAME, WEIGHTS_NAME, LOSS_NAME) if (directory / name).is_file()]
    names = ", ".join((*files, CARD_NAME))
    if dry_run:
        if dry_run.exists() and not (dry_run.is_dir() and not any(dry_run.iterdir())):
            raise HearMwmaeError(f"{dry_run} is not an empty folder")
        dry_run.mkdir(parents=True, exist_ok=True)
        for name in files:
            shutil.copyfile(directory / name, dry_run / name)
        (dry_run / CARD_NAME).write_bytes(card.encode())
        return f"{names} -> {dry_run}"
    api = HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        operations = [CommitOperationAdd(name, str(directory / name)) for name in files]
        operations.append(CommitOperationAdd(CARD_NAME, card.encode()))
        commit = api.create_commit(repo, operations, commit_message=f"Upload {directory.name}")
        return f"{names} -> {commit.commit_url}"
    except HfHubHTTPError as error:
        raise HearMwmaeError(f"cannot push to {repo}: {_reason(error)}; is HF_TOKEN set, with write access?") from error
    except Exception as error:  # no network, an upload that breaks off, a card that the Hub does not take
        why = ": ".join(dict.fromkeys(_reason(part) for part in (error, error.__cause__) if part))
        raise HearMwmaeError(f"cannot push to {repo}: {why}") from error


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _fetch(repo: str, name: str, revision: str | None) -> Path:
    where = repo + (f"@{revision}" if revision else "")
    try:
        path = Path(hf_hub_download(repo, name, revision=revision))
    except HFValidationError as error:
        raise HearMwmaeError(f"{repo!r} is not a Hub repository: {_reason(error)}") from error
    except GatedRepoError as error:
        raise HearMwmaeError(f"{where} is gated: accept its terms on its page and set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise HearMwmaeError(
            f"no repository {where} on the Hub; if it is private, set HF_TOKEN to a token that may read it"
        ) from error
    except RevisionNotFoundError as error:
        raise HearMwmaeError(f"{repo} has no revision {revision!r}") from error
    except LocalEntryNotFoundError as error:
        # The Hub did not answer: no network, HF_HUB_OFFLINE, a server error, a refusal.
        why = _reason(error.__cause__ or error)
        raise HearMwmaeError(f"{name} of {where} is not in the cache, and asking the Hub for it failed: {why}") from error
    except EntryNotFoundError as error:
        raise HearMwmaeError(f"{where} has no {name}: it is not a model of this package") from error
    except Exception as error:  # errors of huggingface_hub's HTTP client, whichever it is, and of the disk
        raise HearMwmaeError(f"downloading {name} of {where} failed: {type(error).__name__}: {_reason(error)}") from error
    _check_blob(path, where)
    return path


def _check_blob(path: Path, where: str) -> None:
    """The cache names a large file by the sha256 that the Hub announced. huggingface_hub checks its
    size only.
    """
    if not path.is_symlink():
        return  # a cache without links has no such names
    # One link only: a second link leads to files from Xet, whose names are not SHA-256.
    blob = path.parent / path.readlink()
    if re.fullmatch(r"[0-9a-f]{64}", blob.name) and (actual := sha256_of(blob)) != blob.name:
        # Removed from the cache, so that the next call downloads it again.
        for file in (blob.resolve(), blob, path):
            file.unlink(missing_ok=True)
        raise HearMwmaeError(
            f"{path.name} of {where} arrived damaged (sha256 {actual}, announced {blob.name}) and was removed; try again"
        )


def _reason(error: BaseException) -> str:
    """First lines of the error's message and of the server's message."""
    lines = [str(text).strip().splitlines() for text in (error, getattr(error, "server_message", None)) if text]
    return ": ".join(dict.fromkeys(text[0].rstrip(".") for text in lines if text)) or type(error).__name__
