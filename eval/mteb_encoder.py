"""An encoder for mteb (`pip install 'mteb[audio]'`), whose audio tasks are MAEB, the Massive Audio
Embedding Benchmark:

    import mteb
    from eval.mteb_encoder import model_meta

    mteb.evaluate(model_meta(), mteb.get_benchmark("MAEB(v1, audio-only)"))

Clips keep their lengths: nothing is padded or cut.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction

import hear_mwmae
from hear_mwmae.clips import waveform
from hear_mwmae.weights import hash_weights

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import DataLoader


class MwMaeEncoder(AbsEncoder):
    """Scene embeddings, (clips, ``scene_embedding_size``) float32, behind mteb's interface of an
    encoder.

    Args:
        source: what `hear_mwmae.load_model` loads.
        pooling: the model's own when None.
    """

    def __init__(
        self,
        model_name: str = "",
        revision: str | None = None,
        device: str | None = None,
        source: str = "",
        pooling: str | None = None,
        **_: object,
    ) -> None:
        self.model = hear_mwmae.load_model(source, device=device, pooling=pooling)
        self.mteb_model_meta = _describe(self.model, source, pooling)

    def encode(self, inputs: DataLoader, **_: object) -> np.ndarray:
        """Embeds the column "audio" of every batch; mteb's arguments on tasks and prompts are
        ignored.
        """
        columns = getattr(inputs.dataset, "features", {})
        if "audio" not in columns:
            raise hear_mwmae.HearMwmaeError(f"mteb gave no audio, but {', '.join(columns)}")
        # mteb's own resamples in another way than the package.
        inputs.collate_fn = partial(_waveforms, sample_rate=self.model.sample_rate)
        return np.concatenate([self.model.embed(clips).cpu().numpy() for clips in inputs])


def _waveforms(rows: list[dict], sample_rate: int) -> list[Tensor]:
    """The clips of a batch, decoded before or here."""
    return [waveform(row["audio"], None, sample_rate, torch.device("cpu")) for row in rows]


def model_meta(source: str = "", pooling: str | None = None) -> ModelMeta:
    """mteb's description of the model, which also loads it."""
    return _describe(hear_mwmae.load_model(source, pooling=pooling), source, pooling)


def _describe(model: hear_mwmae.Embedder, source: str, pooling: str | None) -> ModelMeta:
    parameters = sum(weight.numel() for weight in model.encoder.parameters())
    return ModelMeta.create_empty(
        {
            "loader": MwMaeEncoder,
            "loader_kwargs": {"source": source, "pooling": pooling},
            "name": f"hear-mwmae/{Path(source).name or 'embedded'}-{model.config.pooling}",
            # mteb keeps scores by name and revision, and many models are in a folder named "model".
            "revision": f"{hear_mwmae.__version__}-{hash_weights(model)[:12]}",
            "n_parameters": parameters,
            "embed_dim": model.scene_embedding_size,
            "open_weights": True,
            "framework": ["PyTorch"],
            "similarity_fn_name": ScoringFunction.COSINE,
            "use_instructions": False,
            "modalities": ["audio"],
        }
    )
