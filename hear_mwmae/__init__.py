"""General-purpose audio embeddings from MW-MAE, behind the HEAR 2021 API."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

# In a checkout the weights lie beside the package; installed, they lie inside it.
if not Path(__file__).with_name("weights").is_dir():
    __path__.append(str(Path(__file__).resolve().parents[1]))

from ._version import __version__
from .checkpoint import available_models, load_embedder
from .embedder import Embedder
from .errors import HearMwmaeError

__all__ = ["HearMwmaeError", "__version__", "available_models", "get_scene_embeddings", "get_timestamp_embeddings", "load_model"]


def load_model(model_file_path: str = "", **options: object) -> Embedder:
    """Load a pretrained model.

    Args:
        model_file_path: "" for the model embedded in this package; the name of a registered model; a directory with
            config.json and model.safetensors; a self-contained .safetensors file; ``org/repo`` or ``org/repo@revision`` on the
            Hugging Face Hub; or a checkpoint of the authors' JAX code.
        options: ``dtype`` ("float32" or "bfloat16"), ``timestamps`` ("centred" or "official"), ``max_batch`` (chunks of two
            seconds per encoder call, 64).

    Returns:
        A torch.nn.Module on the CPU, in eval mode, with the attributes ``sample_rate``, ``scene_embedding_size`` and
        ``timestamp_embedding_size``; move it with ``.to(device)``.

    Raises:
        HearMwmaeError: the source, the weights or an option is not valid; the message says what is expected.
    """
    return load_embedder(model_file_path, **options)


def get_scene_embeddings(audio: Tensor, model: Embedder) -> Tensor:
    """One embedding per clip.

    Args:
        audio: (clips, samples) floating point in [-1, 1], at ``model.sample_rate``; moved to the model's device.

    Returns:
        (clips, ``model.scene_embedding_size``) float32.
    """
    return model.scene_embeddings(audio)


def get_timestamp_embeddings(audio: Tensor, model: Embedder) -> tuple[Tensor, Tensor]:
    """One embedding per time step of 40 ms.

    Args:
        audio: (clips, samples) floating point in [-1, 1], at ``model.sample_rate``; moved to the model's device.

    Returns:
        Embeddings (clips, T, ``model.timestamp_embedding_size``) and timestamps (clips, T): the centres of the time steps in
        milliseconds, 40 i + 15, none beyond the end of the audio. Both float32.
    """
    return model.timestamp_embeddings(audio)
