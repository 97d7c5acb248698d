"""Models on disk and by name: reads and writes config.json + model.safetensors, and finds them by
name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import warnings
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from . import hub
from .config import ModelConfig
from .embedder import Embedder
from .errors import HearMwmaeError, did_you_mean, differences
from .files import replacing, why_unreadable, write_text
from .flax_file import is_official_checkpoint
from .linear import warn_of_emulation
from .official import load_official, state_shapes
from .weights import DEFAULT_MODEL, WEIGHTS_DIR, registry

CONFIG_NAME, WEIGHTS_NAME = hub.CONFIG_NAME, hub.WEIGHTS_NAME
ENCODER_PREFIX = "encoder."
#: Key of the hash of a part, encoder or decoder, in the metadata of a weights file.
HASH_KEY = "sha256.{}"

Model = TypeVar("Model", bound=nn.Module)

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?")


def load_embedder(source: str | os.PathLike = "", device: str | torch.device | None = None, **options: Any) -> Embedder:
    """`hear_mwmae.load_model`, which documents the arguments; the options go to `Embedder`."""
    config, state = read_model(source, ENCODER_PREFIX)
    # Without values, because the weights are replaced: drawing them would change torch's random
    # state and start its threads, after which a forked child may hang.
    with torch.device("meta"):
        embedder = Embedder(config, **options)
    load_strictly(embedder.encoder, state, str(source) or DEFAULT_MODEL)
    device = torch.device("cpu") if device is None else device
    to_device(embedder, device)
    warn_of_emulation(embedder.encoder.pos_embed.dtype, embedder.device)
    return embedder


def to_device(model: Model, device: str | torch.device) -> Model:
    """Move the model; HearMwmaeError if the device cannot be used, or holds no values ("meta")."""
    try:
        model.to(torch.device(device))
        torch.zeros(1, dtype=torch.float32, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise HearMwmaeError(f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}") from error
    return model


def read_model(source: str | os.PathLike = "", prefix: str = "") -> tuple[ModelConfig, dict[str, Tensor]]:
    """Configuration and weights from anywhere: the names that `hear_mwmae.load_model` takes.

    Args:
        prefix: ``"encoder."`` or ``"decoder."`` reads only the weights with this prefix, and strips
            it.
    """
    if not isinstance(source, (str, os.PathLike)) or len(os.fspath(source)) > 4000 or "\0" in str(source):
        raise HearMwmaeError(f"a model is named by a string or a path, got {source!r:.100}")
    name = os.fspath(source) or DEFAULT_MODEL
    path = _possible_path(name)
    if name in registry():
        if path.exists():
            warnings.warn(f"{name!r} is the registered model; './{name}' loads the local path", stacklevel=4)
        config_file, weights_file = _registered(name)
    elif path.is_dir() and not is_official_checkpoint(path):
        config_file, weights_file = _in_directory(path)
    elif path.is_file() and path.suffix == ".safetensors":
        config_file, weights_file = None, path
    elif path.exists():
        if why := "" if path.is_dir() else why_unreadable(path):
            raise HearMwmaeError(f"cannot read {path}: {why}")
        return _read_official(path, prefix)
    elif _HUB_ID.fullmatch(name) and path.suffix != ".safetensors":
        try:
            repo, _, revision = name.partition("@")
            config_file, weights_file = hub.download(repo, revision, read_config)
        except HearMwmaeError as error:
            if not path.parent.is_dir():
                raise
            raise HearMwmaeError(f"{error}{did_you_mean(str(path), _near(path))}") from error  # a folder here may be meant
    else:
        raise HearMwmaeError(
            f"no model {name!r}: it is neither a file or directory, nor one of the registered models "
            f"({', '.join(registry())}), nor a Hub repository (org/repo or org/repo@revision)"
            f"{did_you_mean(str(path), _near(path))}"
        )
    # The configuration first: its errors explain errors of the weights.
    config = read_config(config_file) if config_file else None
    return _read_safetensors(weights_file, config, prefix)


def _possible_path(name: str) -> Path:
    """``name`` as a path, which need not exist: it may be another kind of name."""
    try:
        path = Path(name).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except PermissionError as error:
        raise HearMwmaeError(f"no model {name!r}: permission denied") from error
    except (OSError, RuntimeError) as error:  # too long for a name, a home of nobody
        raise HearMwmaeError(f"no model {name!r}: {error}") from error
    return path


def save_model(directory: str | Path, config: ModelConfig, state: dict[str, Tensor], dtype: torch.dtype | None = None) -> None:
    """Write ``config.json`` and ``model.safetensors`` atomically.

    The metadata of the weights file hold the configuration and SHA-256 hashes of encoder and
    decoder, which loading compares. The same weights give the same bytes.

    Args:
        state: the state dict of a `MaskedAutoencoder`, encoder and decoder.
        dtype: precision of the stored weights; unchanged when None.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    values = config.to_dict()
    tensors = {name: (value if dtype is None else value.to(dtype)).contiguous() for name, value in state.items()}
    metadata = {"format": "pt", "config": json.dumps(values)}
    metadata |= {HASH_KEY.format(part): digest for part, digest in _hashes(tensors, metadata["config"]).items()}
    with replacing(directory / WEIGHTS_NAME) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:  # a full disk, say
            raise HearMwmaeError(f"cannot write {directory / WEIGHTS_NAME}: {error}") from error
        _sort_metadata(temporary)
        temporary.chmod(0o644)  # safetensors keeps its files to their owner; a shared model is for all
    write_text(directory / CONFIG_NAME, json.dumps(values, indent=2) + "\n")


def read_config(path: Path) -> ModelConfig:
    """Parse a config.json. HearMwmaeError names the file and the mistake."""
    try:
        return _parse_config(path.read_text(), path)
    except OSError as error:
        raise HearMwmaeError(f"cannot read {path}: {why_unreadable(path) or error.strerror}") from error
    except UnicodeDecodeError as error:
        raise HearMwmaeError(f"{path}: {error}") from error


def load_strictly(module: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Give ``module`` the weights of ``state``, in its own precision.

    Raises HearMwmaeError with a list of the weights that are missing, unexpected, of another shape,
    or not finite floats.
    """
    expected = module.state_dict()
    shapes, found = ({name: tuple(value.shape) for name, value in values.items()} for values in (expected, state))
    problems = _other_shapes(shapes, found)
    problems += [f"{name} is {value.dtype}" for name, value in state.items() if not value.is_floating_point()]
    problems += [
        f"{name} holds NaN or infinity"
        for name, value in state.items()
        if value.is_floating_point() and not all(torch.isfinite(piece).all() for piece in _pieces(value))
    ]
    _refuse(problems, what)
    trainable = {name: weight.requires_grad for name, weight in module.named_parameters()}
    module.load_state_dict({name: _cast(value, expected[name].dtype) for name, value in state.items()}, assign=True)
    for name, weight in module.named_parameters():
        weight.requires_grad_(trainable[name])


def _pieces(value: Tensor) -> tuple[Tensor, ...]:
    """A weight in pieces that torch computes in the calling thread.

    A process that has used torch's threads cannot be forked safely, and loading a model should not
    be what prevents it.
    """
    return value.reshape(-1).split(1 << 14)


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    if value.dtype == dtype:
        return value
    cast = torch.empty(value.shape, dtype=dtype, device=value.device)
    for target, piece in zip(_pieces(cast), _pieces(value), strict=True):
        target.copy_(piece)
    return cast


def _other_shapes(expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> list[str]:
    problems = [f"missing {name} {list(shape)}" for name, shape in expected.items() if name not in found]
    problems += [f"unexpected {name} {list(shape)}" for name, shape in found.items() if name not in expected]
    return problems + [
        f"{name} is {list(found[name])}, should be {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]


def _refuse(problems: list[str], what: str) -> None:
    if problems:
        shown = "\n  ".join(problems[:10] + [f"... and {len(problems) - 10} more"] * (len(problems) > 10))
        raise HearMwmaeError(f"the weights of {what} do not match its configuration:\n  {shown}")


def _hashes(tensors: dict[str, Tensor], config: str) -> dict[str, str]:
    """SHA-256 of each part of a model, ``"encoder"`` and ``"decoder"``, over the configuration as
    JSON and then over the name, type, shape and values of every weight in the order of the names.
    """
    found: dict[str, hashlib._Hash] = {}
    for name in sorted(tensors):
        part, value = name.partition(".")[0], tensors[name].detach().cpu().contiguous()
        digest = found.setdefault(part, hashlib.sha256(config.encode()))
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return {part: digest.hexdigest() for part, digest in found.items()}


def _sort_metadata(file: Path) -> None:
    """Sort the metadata, which safetensors writes in a random order: equal models, equal bytes."""
    with open(file, "r+b") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        stream.seek(8)
        stream.write(text.ljust(size))


def _near(path: Path) -> list[str]:
    """Candidates for the corrected name of a file or model that does not exist."""
    try:
        beside = [str(other) for other in islice(path.parent.iterdir(), 1000)]
    except OSError:
        beside = []
    return [*registry(), *beside]


def _registered(name: str) -> tuple[Path, Path]:
    entry = registry()[name]
    if entry.unavailable:
        raise HearMwmaeError(f"{name}: {entry.unavailable}")
    if entry.repo:
        files = hub.download(entry.repo, entry.revision, read_config)
    else:
        files = _in_directory(WEIGHTS_DIR / name)
    for file in files:
        expected = entry.sha256.get(file.name)
        if expected and (actual := hub.sha256_of(file)) != expected:
            raise HearMwmaeError(f"{file} is not the registered {name}: sha256 {actual}, expected {expected}")
    return files


def _in_directory(path: Path) -> tuple[Path, Path]:
    missing = [name for name in (CONFIG_NAME, WEIGHTS_NAME) if not (path / name).is_file()]
    if missing:
        raise HearMwmaeError(f"directory {path} holds no model: {' and '.join(missing)} missing")
    return path / CONFIG_NAME, path / WEIGHTS_NAME


def _read_official(path: Path, prefix: str) -> tuple[ModelConfig, dict[str, Tensor]]:
    if not is_official_checkpoint(path):
        raise HearMwmaeError(
            f"{path} is not a model: expected a directory with {CONFIG_NAME} and {WEIGHTS_NAME}, a .safetensors file, or a "
            "checkpoint of the authors' JAX code; pickled files (.pt, .pth, .ckpt) are never opened, since they can run code"
        )
    config, state = load_official(path)
    return config, {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _read_safetensors(path: Path, config: ModelConfig | None, prefix: str) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Only the tensors under ``prefix`` are read from disk.

    The configuration in the file's metadata must equal ``config``.

    Shapes are not enough: other heads, other patches of the same size or another mel scale fit the
    same weights.
    """
    try:
        with safe_open(path, "pt") as file:
            names, metadata = list(file.keys()), file.metadata() or {}
            text = metadata.get("config")
            own_config = _parse_config(text, path) if text is not None else None
            known = config or own_config
            if known is None:
                raise HearMwmaeError(f"{path} has no configuration in its metadata; load the directory with its {CONFIG_NAME}")
            if config and own_config:  # pooling is not a property of the weights: config.json decides
                own_config = dataclasses.replace(own_config, pooling=config.pooling)
            if config and own_config and config != own_config:
                raise HearMwmaeError(
                    f"{path} was saved with another configuration than the {CONFIG_NAME} beside it: "
                    + ", ".join(
                        f"{key} is {saved} in the weights, {beside} in {CONFIG_NAME}"
                        for key, saved, beside in differences(own_config.to_dict(), config.to_dict())
                    )
                )
            if strangers := [name for name in names if not name.startswith((ENCODER_PREFIX, "decoder."))]:
                raise HearMwmaeError(
                    f"{path} is not an MW-MAE: it holds {', '.join(strangers[:5])}, not only encoder.* and decoder.*"
                )
            # By the header alone, before anything of a declared size is allocated.
            shapes_found = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            expected, found = (
                {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
                for shapes in (state_shapes(known), shapes_found)
            )
            _refuse(_other_shapes(expected, found), str(path))
            tensors = {name: file.get_tensor(name) for name in names if name.startswith(prefix)}
    except (SafetensorError, OSError) as error:
        why = why_unreadable(path) or f"not a readable safetensors file (damaged or truncated): {error}"
        raise HearMwmaeError(f"{path}: {why}") from error
    for part, digest in _hashes(tensors, text or "").items():
        if metadata.get(HASH_KEY.format(part), digest) != digest:
            raise HearMwmaeError(f"{path} is damaged: its {part} is not what was saved (sha256 {digest})")
    return known, {name.removeprefix(prefix): value for name, value in tensors.items()}


def _parse_config(text: str, path: Path) -> ModelConfig:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HearMwmaeError(f"{path}: {error}") from error
    try:
        return ModelConfig.from_dict(values)
    except (HearMwmaeError, RecursionError, OverflowError) as error:
        raise HearMwmaeError(f"{path}: {error}") from error
