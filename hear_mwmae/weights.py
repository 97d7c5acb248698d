"""Models by name and on disk: config.json + model.safetensors, found, checked, read and written.

A name is found, its configuration read and compared with the one inside the weights; then the hash
of the file is checked, and the weights are read.
"""

import dataclasses
import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Iterator
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
from .errors import HearMwmaeError, differences, reason
from .files import read_json, replacing, write_text
from .hub import CONFIG_NAME, WEIGHTS_NAME
from .linear import warn_of_emulation

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
    # Without values, because drawing weights that are replaced would change torch's random state.
    with torch.device("meta"):
        embedder = Embedder(found.config, **options)
    load_strictly(embedder, _read_weights(found, ENCODER_PREFIX), found.name)
    to_device(embedder, torch.device("cpu") if device is None else device)
    warn_of_emulation(embedder.encoder.pos_embed.dtype, embedder.device)
    return embedder


def read_model(source: str | os.PathLike = "") -> tuple[ModelConfig, dict[str, Tensor]]:
    """Configuration and weights from anywhere: the names that `hear_mwmae.load_model` takes.

    `load_strictly` notices weights that do not fit the configuration.
    """
    found = find_model(source)
    return found.config, _read_weights(found)


def load_strictly(module: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Give ``module`` the weights of ``state``, in its own precision.

    Raises HearMwmaeError, which names ``what``, if weights are missing, unexpected, of another
    shape, or not finite floats.
    """
    bad = [name for name, v in state.items() if not (v.is_floating_point() and v.isfinite().all())]
    if bad:
        raise HearMwmaeError(f"{what}: {bad[0]} does not hold finite floating-point numbers")
    dtype = next(module.parameters()).dtype
    cast = {name: value.to(dtype) for name, value in state.items()}
    try:
        module.load_state_dict(cast, assign=True)
    except RuntimeError as error:  # a heading, then what is missing, unexpected, of another shape
        first = str(error).splitlines()[1].strip()
        said = f"the weights of {what} do not match its configuration: {first:.300}"
        if lacking := _parts(module.state_dict()) - _parts(state):  # an encoder alone, say
            said = f"{what} has no weights of the {' and '.join(sorted(lacking))}"
        raise HearMwmaeError(said) from error


def hash_weights(module: nn.Module) -> str:
    """SHA-256 of the names, types, shapes and values of all weights, and of the ``config`` of a
    model but for its pooling; "none" without weights.
    """
    weights = module.state_dict()
    if not weights:
        return "none"
    digest = hashlib.sha256()
    if isinstance(config := getattr(module, "config", None), ModelConfig):
        values = {key: value for key, value in config.to_dict().items() if key != "pooling"}
        digest.update(json.dumps(values, sort_keys=True).encode())
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


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

    HearMwmaeError if an encoder alone would replace a model with a decoder.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if (directory / WEIGHTS_NAME).exists():
        with _opened(directory / WEIGHTS_NAME) as file:
            lost = _parts(file.keys()) - _parts(state)
        if lost:
            said = f"the {' and '.join(sorted(lost))} of the model in {directory} would be lost"
            raise HearMwmaeError(f"{said}: give another folder")
    values = config.to_dict()
    tensors = {name: value.to(dtype or value.dtype).contiguous() for name, value in state.items()}
    with replacing(directory / WEIGHTS_NAME) as temporary:
        try:
            save_file(tensors, temporary, {"config": json.dumps(values)})
        except SafetensorError as error:  # a full disk, say
            raise HearMwmaeError(f"cannot write {directory / WEIGHTS_NAME}: {error}") from error
        temporary.chmod(0o644)  # safetensors keeps its files to their owner
        values[SHA256] = sha256_of(temporary)
    write_text(directory / CONFIG_NAME, json.dumps(values, indent=2) + "\n")


def _parts(names: Iterable[str]) -> set[str]:
    """The parts of a model, encoder and decoder, that weights of these names belong to."""
    return {name.partition(".")[0] for name in names}


def check_no_model(directory: Path) -> None:
    """HearMwmaeError if there is a model in the directory, which `save_model` would replace."""
    if (directory / CONFIG_NAME).exists() or (directory / WEIGHTS_NAME).exists():
        raise HearMwmaeError(f"{directory} holds a model: give another folder, or remove it")


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
    """The model of a name, as `hear_mwmae.load_model` takes it; see `load_embedder`.

    A name is that of a registered model, else a path where something is, else org/repo[@revision]
    on the Hub.
    """
    if not isinstance(source, str | os.PathLike):
        raise HearMwmaeError(f"a model is named by a string or a path, got {source!r:.100}")
    name = os.fspath(source) or DEFAULT_MODEL
    path = Path(os.path.expanduser(name))
    if name in registry():
        if os.path.exists(path):
            text = f"{name!r} is the registered model; './{name}' loads the local path"
            warnings.warn(text, stacklevel=4)
        return _find_registered(name)
    if os.path.exists(path):
        try:
            return _find_local(name, path)
        except OSError as error:
            raise HearMwmaeError(f"cannot read {path}: {reason(error)}") from error
    if place := hub.parse_name(name):
        return _find_on_hub(name, place[0], revision or place[1], **download)
    raise _no_model(name)


def _no_model(name: str) -> HearMwmaeError:
    return HearMwmaeError(
        f"no model {name!r:.200}: expected a registered name ({', '.join(registry())}), "
        f"a folder with {CONFIG_NAME} and {WEIGHTS_NAME}, a .safetensors file, a checkpoint of the "
        "authors' JAX code, or org/repo[@revision] on the Hub; pickled files are never opened"
    )


def _find_local(name: str, path: Path) -> Found:
    if (path / WEIGHTS_NAME).is_file():
        return _find_files(name, path / WEIGHTS_NAME)
    if path.suffix == ".safetensors" and path.is_file():
        if config := _config_inside(path):
            return Found(name, config, path)
        raise HearMwmaeError(f"{path} has no configuration in its metadata; load its folder")
    if official.is_checkpoint(path):
        return Found(name, *official.load_official(path))
    raise _no_model(name)


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
def _opened(path: Path) -> Iterator[safe_open]:
    """A safetensors file; HearMwmaeError if it is damaged."""
    try:
        open(path, "rb").close()  # safetensors calls a file missing that may not be read
        with safe_open(path, "pt") as file:
            yield file
    except SafetensorError as error:
        said = f"{path} is damaged, or no safetensors file: {reason(error)}"
        raise HearMwmaeError(said) from error
    except OSError as error:
        raise HearMwmaeError(f"cannot read {path}: {reason(error)}") from error


def _config_inside(path: Path) -> ModelConfig | None:
    """The configuration in the metadata of a weights file, if there is one."""
    with _opened(path) as file:
        text = (file.metadata() or {}).get("config")
    if text is None:
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HearMwmaeError(f"{path}: its configuration is not JSON: {reason(error)}") from error
    return _parse_config(values, path)


def _read_weights(found: Found, prefix: str = "") -> dict[str, Tensor]:
    """The weights whose names begin with ``prefix``; HearMwmaeError if the file's hash is wrong."""
    if isinstance(found.weights, dict):
        return {name: v for name, v in found.weights.items() if name.startswith(prefix)}
    with _opened(found.weights) as file:
        if found.sha256 and (actual := sha256_of(found.weights)) != found.sha256:
            raise HearMwmaeError(
                f"{found.weights} is damaged: its sha256 is {actual}, and should be {found.sha256}"
            )
        stored = file.keys()
        return {name: file.get_tensor(name) for name in stored if name.startswith(prefix)}
