"""Model cards: the README.md of a model's folder."""

from __future__ import annotations

from typing import Any

from huggingface_hub import ModelCardData

from .config import ModelConfig
from .mae import describe

_CARD = """---
{metadata}
---

# {name}

A masked autoencoder for general-purpose audio embeddings, for the package `hear-mwmae`.

## Use

```python
import hear_mwmae

model = hear_mwmae.load_model("{load_from}")
# audio: (clips, samples) float32 at {rate} Hz
scenes = hear_mwmae.get_scene_embeddings(audio, model)  # (clips, {scene_size})
steps, milliseconds = hear_mwmae.get_timestamp_embeddings(audio, model)
```

A scene embedding is the {pooling} over the time steps of a clip.
`load_model("{load_from}", pooling="mean")` is the paper's pooling.

## Model

{kind}. The decoder is for pretraining, and not in the weights of an encoder alone.

{parts}

{sections}## Citation

```bibtex
@inproceedings{{yadav2024masked,
  title     = {{Masked Autoencoders with Multi-Window Local-Global Attention Are Better Audio
               Learners}},
  author    = {{Yadav, Sarthak and Theodoridis, Sergios and Hansen, Lars Kai and Tan, Zheng-Hua}},
  booktitle = {{The Twelfth International Conference on Learning Representations (ICLR)}},
  year      = {{2024}},
  url       = {{https://arxiv.org/abs/2306.00561}}
}}
```
"""


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
    return _CARD.format(
        metadata=data.to_yaml(),
        name=name,
        load_from=load_from,
        rate=config.frontend.sample_rate,
        scene_size=config.scene_embedding_size,
        pooling=config.pooling,
        kind={"mwmae": "MW-MAE", "mae": "MAE"}[config.kind],
        parts="\n".join(f"* {part}: {said}" for part, said in describe(config).items()),
        sections=sections,
    )
