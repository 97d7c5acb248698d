"""General-purpose audio embeddings from MW-MAE, behind the HEAR 2021 API."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ._version import __version__
from .errors import HearMwmaeError

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import torch
    from torch import Tensor

    from .attention import MultiWindowAttention
    from .config import preset
    from .embedder import Embedder
    from .mae import MaskedAutoencoder

__all__ = [
    "Embedder",
    "HearMwmaeError",
    "MaskedAutoencoder",
    "MultiWindowAttention",
    "__version__",
    "available_models",
    "get_scene_embeddings",
    "get_timestamp_embeddings",
    "load_model",
    "preset",
]

#: Imported on first use: importing torch takes seconds, and `hear-mwmae --help` does not need it.
_LAZY = {
    "Embedder": ".embedder",
    "MaskedAutoencoder": ".mae",
    "MultiWindowAttention": ".attention",
    "preset": ".config",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name], __name__), name)


def load_model(
    model_file_path: str | os.PathLike = "",
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "float32",
    pooling: str | None = None,
    timestamps: str = "centred",
    max_batch: int = 64,
    trainable: bool = False,
) -> Embedder:
    """Load a pretrained model.

    Args:
        model_file_path: "" for the model embedded in this package; a name of `available_models`; a
            folder with config.json and model.safetensors; a .safetensors file; ``org/repo`` or
            ``org/repo@revision`` on the Hugging Face Hub; or a checkpoint of the authors' JAX
            code. HEAR's API has this name.
        device: the device of the model; the CPU when None.
        dtype: precision of the encoder, "float32" or "bfloat16", or the torch.dtype. Results are
            always float32.
        pooling: statistics over time in a scene embedding: any of "mean", "std" and "max", joined
            by "+". The model's own when None. The paper uses "mean".
        timestamps: "centred" for the middles of the time steps, "official" for the timestamps of
            the authors' wrapper.
        max_batch: two-second chunks per encoder call. It bounds the memory, except for the
            spectrogram of a clip, 115 MB per hour.
        trainable: gradients flow through the embeddings to the encoder's weights.

    Returns:
        A torch.nn.Module in eval mode, with the attributes ``sample_rate``,
        ``scene_embedding_size`` and ``timestamp_embedding_size``. ``model.embed`` takes files and
        clips of any lengths.

    Raises:
        HearMwmaeError: a ValueError; there is no such model, or the weights or an option are
            invalid. The message says what is expected.
    """
    from .weights import load_embedder

    return load_embedder(
        model_file_path,
        device,
        dtype=dtype,
        pooling=pooling,
        timestamps=timestamps,
        max_batch=max_batch,
        trainable=trainable,
    )


def available_models() -> list[str]:
    """Names of the registry that `load_model` accepts without another file."""
    from .weights import registry

    return [name for name, entry in registry().items() if not entry.unavailable]


def get_scene_embeddings(
    audio: Tensor, model: Embedder, lengths: Sequence[int] | Tensor | None = None
) -> Tensor:
    """One embedding per clip.

    Args:
        audio: (clips, samples) floating point in [-1, 1], at ``model.sample_rate``; moved to the
            model's device.
        lengths: (clips,) samples of each clip, if shorter clips are padded at their end. The
            padding is removed, because it would change the normalisation of the clip.

    Returns:
        (clips, ``model.scene_embedding_size``) float32.
    """
    return model(audio, lengths)


def get_timestamp_embeddings(audio: Tensor, model: Embedder) -> tuple[Tensor, Tensor]:
    """One embedding per time step, of 40 ms with patches of 4 frames.

    Args:
        audio: (clips, samples) floating point in [-1, 1], at ``model.sample_rate``; moved to the
            model's device.

    Returns:
        Embeddings (clips, T, ``model.timestamp_embedding_size``) and timestamps (clips, T): the
        centres of the time steps in milliseconds, 40 i + 15, within the audio. Both float32.
    """
    return model(audio, timestamps=True)
