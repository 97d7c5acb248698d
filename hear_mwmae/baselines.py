"""Models to probe: trained ones, and as baselines an encoder with random weights, and statistics of
its input.
"""

import dataclasses

import torch
from torch import Tensor, nn

from .config import FrontendConfig, ModelConfig, parse_pooling
from .embedder import Embedder
from .errors import HearMwmaeError
from .frontend import LogMelFrontend
from .pooling import pool
from .weights import find_model, load_embedder, to_device

#: What `load_models` takes beside the sources of ``load_embedder``.
BASELINES = ("untrained", "log-mel")


class LogMelStatistics(nn.Module):
    """Statistics over time of the normalised log-mel spectrogram of a clip, without learning.

    Args:
        pooling: as of a model: "mean", "std", "max", joined by "+".
        config: of the front-end.
    """

    def __init__(self, pooling: str = "mean+std", config: FrontendConfig | None = None) -> None:
        super().__init__()
        config = config or FrontendConfig()
        self.frontend = LogMelFrontend(config)
        self.sample_rate = config.sample_rate
        self.names = parse_pooling(pooling)
        self.scene_embedding_size = len(self.names) * config.bands

    def embed(self, clips: list[Tensor]) -> Tensor:
        """Clips (samples,) at the rate of the front-end -> (clips, bands * statistics)."""
        return torch.cat([self(clip[None]) for clip in clips])

    def forward(self, audio: Tensor) -> Tensor:
        """(B, samples) -> (B, bands * statistics)."""
        return pool([self.frontend(audio)], self.names)


#: A model that can be probed.
Probed = Embedder | LogMelStatistics


def untrained(config: ModelConfig) -> Embedder:
    """The encoder of ``config`` with random weights, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Embedder(config)


def load_models(
    sources: dict[str, str], pooling: str | None = None, device: str = "cpu"
) -> tuple[dict[str, Probed], str]:
    """The models to compare, by name, and the one pooling of all of them.

    HearMwmaeError if no pooling is given and the trained models differ in theirs.

    Args:
        sources: trained models, and "untrained" and "log-mel", which have the configuration of the
            first trained one (of the embedded model if there is none).
        pooling: the trained models' own when None.
    """
    trained = {}
    for name, source in sources.items():
        if source not in BASELINES:
            trained[name] = load_embedder(source, device, pooling=pooling)
    own = {name: model.config.pooling for name, model in trained.items()}
    if len(set(own.values())) > 1:
        listed = ", ".join(f"{name}: {value}" for name, value in own.items())
        raise HearMwmaeError(f"the models' poolings differ ({listed}): give one by --pooling")
    first = next(iter(trained.values())).config if trained else find_model().config
    config = dataclasses.replace(first, pooling=pooling or first.pooling)
    models: dict[str, Probed] = {}
    for name, source in sources.items():
        if source == "untrained":
            models[name] = to_device(untrained(config), device)
        elif source == "log-mel":
            models[name] = LogMelStatistics(config.pooling, config.frontend)
        else:
            models[name] = trained[name]
    return models, config.pooling
