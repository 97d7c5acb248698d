"""Models by name and on disk: config.json + model.safetensors, found, checked, read and written.

A name is found, its configuration read, and the names and shapes of its weights compared with the
module that they are for; then the file's hash is compared, and the weights are read.
"""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from . import hub, official
from .config import ModelConfig
from .embedder import Embedder
from .encoder import Encoder
from .errors import HearMwmaeError, differences, reason
from .files import read_json, replacing, write_text
from .hub import CONFIG_NAME, WEIGHTS_NAME
from .linear import warn_of_emulation
from .strict import compare_shapes, load_strictly

DEFAULT_MODEL = "mwmae-tiny-2"
#: Installed, the files lie inside the package; in a checkout beside it.
_PLACES = (Path(__file__).with_name("models"), Path(__file__).parents[1] / "weights")
WEIGHTS_DIR = next((place for place in _PLACES if place.is_dir()), _PLACES[0])
ENCODER_PREFIX = "encoder."
#: The hash of the weights file, beside the configuration in config.json.
SHA256 = "sha256"

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Entry:
    """One model of ``registry.json``: a directory beside it, or a way to get it by hand."""

    description: str
    license: str
    sha256: str = ""  #: of the weights file
    unavailable: str = ""  #: why this package cannot deliver it, and how to get it


@cache
def registry() -> dict[str, Entry]:
    """Name -> entry."""
    entries = json.loads((WEIGHTS_DIR / "registry.json").read_text(encoding="utf-8"))
    return {name: Entry(**values) for name, values in entries.items()}


class Found(NamedTuple):
    """A model that was found, before its weights are read."""

    name: str
    config: ModelConfig
    weights: Path | dict[str, Tensor]  #: model.safetensors, or what a checkpoint of the authors has
    sha256: str = ""  #: that the file should have, if known


def load_embedder(
    source: str | os.PathLike = "",
    device: str | torch.device | None = None,
    *,
    revision: str | None = None,
    download: dict[str, Any] | None = None,
    **options: Any,
) -> Embedder:
    """`hear_mwmae.load_model`, which documents the arguments; the options go to `Embedder`.

    Args:
        revision: of a model on the Hub, instead of ``org/repo@revision``.
        download: options of `huggingface_hub.hf_hub_download`.
    """
    found = find_model(source, revision, **(download or {}))
    # Without values, because the weights are replaced: drawing them would change torch's random
    # state and start its threads, after which a forked child may hang.
    with torch.device("meta"):
        embedder = Embedder(found.config, **options)
    state = _read_weights(found, embedder.encoder, ENCODER_PREFIX)
    load_strictly(embedder.encoder, state, found.name)
    to_device(embedder, torch.device("cpu") if device is None else device)
    warn_of_emulation(embedder.encoder.pos_embed.dtype, embedder.device)
    return embedder


def read_model(
    source: str | os.PathLike = "", prefix: str = ""
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Configuration and weights from anywhere: the names that `hear_mwmae.load_model` takes.

    Args:
        prefix: ``"encoder."`` reads only the encoder's weights, and strips it from their names.
    """
    from .mae import MaskedAutoencoder  # only here: it imports this module

    found = find_model(source)
    with torch.device("meta"):
        module = Encoder(found.config) if prefix else MaskedAutoencoder(found.config)
    return found.config, _read_weights(found, module, prefix)


def save_model(
    directory: str | Path,
    config: ModelConfig,
    state: dict[str, Tensor],
    dtype: torch.dtype | None = None,
) -> None:
    """Write ``config.json`` and ``model.safetensors``, each atomically.

    The configuration is in both, so that the weights load by themselves too; config.json has the
    sha256 of the weights file. The same weights give the same bytes.

    Args:
        state: the state dict of a `MaskedAutoencoder`, or its ``encoder.*`` alone.
        dtype: precision of the stored weights; unchanged when None.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    values = config.to_dict()
    tensors = {name: value.to(dtype or value.dtype).contiguous() for name, value in state.items()}
    with replacing(directory / WEIGHTS_NAME) as temporary:
        try:
            save_file(tensors, temporary, {"config": json.dumps(values)})
        except SafetensorError as error:  # a full disk, say
            raise HearMwmaeError(f"cannot write {directory / WEIGHTS_NAME}: {error}") from error
        temporary.chmod(0o644)  # safetensors keeps its files to their owner
        values[SHA256] = hub.sha256_of(temporary)
    write_text(directory / CONFIG_NAME, json.dumps(values, indent=2) + "\n")


def read_config(path: Path) -> ModelConfig:
    """Parse a config.json. HearMwmaeError names the file and the mistake."""
    return _read_config(path)[0]


def _read_config(path: Path) -> tuple[ModelConfig, str]:
    """The configuration in a config.json, and the sha256 of the weights beside it, if known."""
    values = read_json(path)
    sha256 = values.pop(SHA256, "") if isinstance(values, dict) else ""
    return _parse_config(values, path), str(sha256)


def _parse_config(values: object, path: Path) -> ModelConfig:
    try:
        return ModelConfig.from_dict(values)
    except HearMwmaeError as error:
        raise HearMwmaeError(f"{path}: {error}") from error


def to_device(model: Module, device: str | torch.device) -> Module:
    """Move the model; HearMwmaeError if the device cannot be used, or holds no values ("meta")."""
    try:
        model.to(torch.device(device))
        torch.zeros(1, dtype=torch.float32, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        said = f"device {str(device)!r} cannot be used: {reason(error)}"
        raise HearMwmaeError(said) from error
    return model


def find_model(
    source: str | os.PathLike = "", revision: str | None = None, **download: Any
) -> Found:
    """The model of a name, as `hear_mwmae.load_model` takes it; see `load_embedder`."""
    if not isinstance(source, str | os.PathLike):
        raise HearMwmaeError(f"a model is named by a string or a path, got {source!r:.100}")
    name = os.fspath(source) or DEFAULT_MODEL
    path = Path(os.path.expanduser(name))
    if name in registry():
        if path.exists():
            text = f"{name!r} is the registered model; './{name}' loads the local path"
            warnings.warn(text, stacklevel=4)
        return _find_registered(name)
    if os.path.exists(path):
        with _reading(path):
            return _find_local(name, path)
    place = None if _is_path(name) else hub.parse_name(name)
    if place is None:
        raise HearMwmaeError(_no_model(name, path))
    return _find_on_hub(name, place[0], revision or place[1], **download)


def _find_local(name: str, path: Path) -> Found:
    if (path / WEIGHTS_NAME).is_file():
        return _find_files(name, path / WEIGHTS_NAME)
    if path.suffix == ".safetensors" and path.is_file():
        if config := _config_inside(path):
            return Found(name, config, path)
        raise HearMwmaeError(f"{path} has no configuration in its metadata; load its folder")
    if official.is_checkpoint(path):
        return Found(name, *official.load_official(path))
    if path.is_dir():
        raise HearMwmaeError(f"{path} holds no model: {hub.missing_files(path)} missing")
    raise HearMwmaeError(
        f"{path} is not a model: expected a folder with {CONFIG_NAME} and {WEIGHTS_NAME}, a "
        ".safetensors file, or a checkpoint of the authors' JAX code; pickled files (.pt, .pth, "
        ".ckpt) are never opened, since they can run code"
    )


def _is_path(name: str) -> bool:
    """Whether a name that is no file can only mean one, so that nothing is asked of the Hub."""
    if name.startswith(("hf://", "https://", "http://")):
        return False
    parent, slash, last = name.partition("@")[0].rpartition("/")
    return (
        name.startswith((".", "/", "~"))
        or "\\" in name
        or "/" in parent
        or last.endswith(".safetensors")
        or (slash == "/" and os.path.isdir(parent))
    )


def _no_model(name: str, path: Path) -> str:
    why = ""
    try:
        path.stat()
    except (OSError, ValueError) as error:  # not there, no permission, too long, a zero byte
        why = reason(error)
    if _is_path(name):
        elsewhere = f"; hf://{name} is a model on the Hub" if hub.parse_name(name) else ""
        return f"no model {name!r:.200}: {why}{elsewhere}"
    known = ", ".join(registry())
    return f"no model {name!r:.200}: {why}, nor org/repo on the Hub, nor registered: {known}"


def _find_registered(name: str) -> Found:
    entry = registry()[name]
    if entry.unavailable:
        raise HearMwmaeError(f"{name}: {entry.unavailable}")
    found = _find_files(name, WEIGHTS_DIR / name / WEIGHTS_NAME)
    return found._replace(sha256=entry.sha256)


def _find_on_hub(name: str, repo: str, revision: str | None, **download: Any) -> Found:
    """Both files come from one commit, even if the branch moves in between. The weights, which may
    be large, are not asked for if the configuration is wrong.
    """
    config = hub.fetch(repo, CONFIG_NAME, revision, **download)
    read_config(config)
    return _find_files(name, hub.fetch(repo, WEIGHTS_NAME, config.parent.name, **download))


def _find_files(name: str, weights: Path) -> Found:
    """A weights file with the config.json beside it."""
    config, sha256 = _read_config(weights.with_name(CONFIG_NAME))
    inside = _config_inside(weights)
    # Shapes are not enough: other heads, patches of the same size or another mel scale fit the same
    # weights. The pooling is no property of the weights.
    if inside and (inside := dataclasses.replace(inside, pooling=config.pooling)) != config:
        key, saved, beside = differences(inside.to_dict(), config.to_dict())[0]
        raise HearMwmaeError(
            f"{weights} was saved with another configuration than the {CONFIG_NAME} beside it: "
            f"{key} is {saved} in the weights, {beside} in {CONFIG_NAME}"
        )
    return Found(name, config, weights, sha256)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        said = f"{path} is damaged, or no safetensors file: {reason(error)}"
        raise HearMwmaeError(said) from error
    except OSError as error:
        raise HearMwmaeError(f"cannot read {path}: {reason(error)}") from error


def _open(path: Path) -> safe_open:
    open(path, "rb").close()  # safetensors calls a file missing that may not be read
    return safe_open(path, "pt")


def _config_inside(path: Path) -> ModelConfig | None:
    """The configuration in the metadata of a weights file, if there is one."""
    with _reading(path), _open(path) as file:
        text = (file.metadata() or {}).get("config")
    if text is None:
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HearMwmaeError(f"{path}: its configuration is not JSON: {reason(error)}") from error
    return _parse_config(values, path)


def _read_weights(found: Found, module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """The weights of ``module``, whose names begin with ``prefix``.

    The header of the file and its hash are checked before anything of a declared size is allocated.
    """
    if isinstance(found.weights, dict):
        state = found.weights.items()
        return {name.removeprefix(prefix): v for name, v in state if name.startswith(prefix)}
    with _reading(found.weights), _open(found.weights) as file:
        stored = file.keys()
        names = {name.removeprefix(prefix): name for name in stored if name.startswith(prefix)}
        shapes = {name: tuple(file.get_slice(full).get_shape()) for name, full in names.items()}
        compare_shapes(module.state_dict(), shapes, found.weights)
        if found.sha256 and (actual := hub.sha256_of(found.weights)) != found.sha256:
            raise HearMwmaeError(
                f"{found.weights} is damaged: its sha256 is {actual}, and should be {found.sha256}"
            )
        return {name: file.get_tensor(full) for name, full in names.items()}
