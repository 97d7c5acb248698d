"""An encoder for the benchmark X-ARES (`pip install xares`):

    python -m xares.run --max-jobs 8 eval/xares_encoder.py TASKS/*.py

X-ARES constructs the class below without arguments. HEAR_MWMAE_MODEL names another model than the
embedded one.
"""

from __future__ import annotations

import os

from torch import Tensor, nn

import hear_mwmae


class MwMaeEncoder(nn.Module):
    """(B, samples) at 16 kHz -> (B, T, output_dim), one per 40 ms with the default patches;
    attributes as X-ARES expects.
    """

    def __init__(self, model: str = os.environ.get("HEAR_MWMAE_MODEL", "")) -> None:
        super().__init__()
        self.model = hear_mwmae.load_model(model)
        self.sampling_rate = self.model.sample_rate
        self.output_dim = self.model.timestamp_embedding_size
        config = self.model.config
        self.hop_size_in_ms = (
            1000 * config.patch_size[0] * config.frontend.hop_length // config.frontend.sample_rate
        )

    def forward(self, audio: Tensor) -> Tensor:
        return hear_mwmae.get_timestamp_embeddings(audio, self.model)[0]
