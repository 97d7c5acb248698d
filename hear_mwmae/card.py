"""Model cards: the README.md of a model's folder."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from .config import ModelConfig
from .mae import describe

_CARD = Path(__file__).with_name("card.md")


def model_card(config: ModelConfig, load_from: str, sections: str = "", **metadata: Any) -> str:
    """The card as Markdown, with the Hub's metadata above it.

    Args:
        load_from: the argument of `load_model`: org/repo on the Hub, a registered name, or a
            folder.
        sections: further Markdown, which ends with an empty line.
        metadata: of `huggingface_hub.ModelCardData`, such as ``license``.
    """
    name = load_from.split("/")[-1]
    tags = ["audio", "audio-embeddings", "self-supervised", "masked-autoencoder", config.kind]
    data = ModelCardData(
        library_name="hear-mwmae",
        pipeline_tag="feature-extraction",
        tags=[*tags, "hear-benchmark"],
        model_name=name,
        **metadata,
    )
    return _CARD.read_text(encoding="utf-8").format(
        metadata=data.to_yaml(),
        name=name,
        load_from=load_from,
        rate=config.frontend.sample_rate,
        scene_size=config.scene_embedding_size,
        pooling=config.pooling,
        parts="\n".join(f"* {part}: {said}" for part, said in describe(config).items()),
        sections=sections,
    )
