"""Model cards: the README.md of a model directory, from its config.json and card.json."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from .checkpoint import CONFIG_NAME, read_config
from .config import PAPERS_POOLING, ModelConfig
from .errors import HearMwmaeError
from .files import read_json

CARD_SOURCE = "card.json"

_KEYS = {
    "license": str,
    "description": str,
    "datasets": list,
    "data": str,
    "training": str,
    "results": list,
    "results_command": str,
    "limits": list,
}

_CITATION = """```bibtex
@inproceedings{yadav2024masked,
  title     = {Masked Autoencoders with Multi-Window Local-Global Attention Are Better Audio Learners},
  author    = {Yadav, Sarthak and Theodoridis, Sergios and Hansen, Lars Kai and Tan, Zheng-Hua},
  booktitle = {The Twelfth International Conference on Learning Representations (ICLR)},
  year      = {2024},
  url       = {https://arxiv.org/abs/2306.00561}
}
```"""


def model_card(directory: str | Path, load_from: str) -> str:
    """The card as Markdown with the Hub's metadata header.

    Everything comes from ``config.json`` and, where there is one, ``card.json``: an object with any of ``license`` (the Hub's
    identifier), ``description``, ``datasets`` (list), ``data`` and ``training`` (Markdown), ``results`` (list of objects with
    task, metric, value and, as columns beside it, whatever else is numeric), ``results_command`` and ``limits`` (list).

    Args:
        load_from: what users will give to ``load_model``: org/repo on the Hub, a registered name, or a folder.
    """
    directory = Path(directory)
    config = read_config(directory / CONFIG_NAME)
    source = _read_source(directory / CARD_SOURCE)
    kind = {"mwmae": "MW-MAE", "mae": "MAE"}[config.kind]
    name = load_from.split("/")[-1]
    results = source.get("results", [])
    header = ModelCardData(
        library_name="hear-mwmae",
        pipeline_tag="feature-extraction",
        tags=["audio", "audio-embeddings", "self-supervised", "masked-autoencoder", config.kind, "hear-benchmark"],
        license=source.get("license"),
        datasets=source.get("datasets") or None,
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="audio-classification",
                dataset_type=row["task"].lower().replace(" ", "-"),
                dataset_name=row["task"],
                metric_type=row["metric"],
                metric_value=row["value"],
            )
            for row in results
        ]
        or None,
    )
    encoder, decoder = config.encoder, config.decoder
    windows = ", ".join(str(w) if w else "global" for w in decoder.window_sizes) or "global"
    parts = [
        f"---\n{header.to_yaml()}\n---",
        f"# {name}",
        source.get("description", f"{kind}, a masked autoencoder for general-purpose audio embeddings."),
        "## Use",
        "```python\nimport hear_mwmae\n\n"
        f'model = hear_mwmae.load_model("{load_from}")\n'
        f"# audio: (clips, samples) float32 at {config.frontend.sample_rate} Hz\n"
        f"scenes = hear_mwmae.get_scene_embeddings(audio, model)  # (clips, {config.scene_embedding_size})\n"
        "steps, milliseconds = hear_mwmae.get_timestamp_embeddings(audio, model)\n```",
        *_pooling(config, load_from),
        "## Model",
        f"{kind}: log-mel patches of {config.patch_size[0]} frames x {config.patch_size[1]} bands, {config.num_tokens} tokens "
        f"for {config.input_frames} frames. Encoder {encoder.width} wide, {encoder.depth} blocks, {encoder.heads} heads; "
        f"decoder (pretraining only) {decoder.width} wide, {decoder.depth} blocks, heads with windows {windows}. "
        "The file holds both.",
    ]
    for section in ("data", "training"):
        if section in source:
            parts += [f"## {section.capitalize()}", source[section]]
    if results:
        parts += ["## Results", _results_table(results)]
        if "results_command" in source:
            parts.append(f"By `{source['results_command']}`.")
    if source.get("limits"):
        parts += ["## Limits", "\n".join(f"- {limit}" for limit in source["limits"])]
    parts += ["## Citation", _CITATION]
    return "\n\n".join(parts) + "\n"


def _pooling(config: ModelConfig, load_from: str) -> list[str]:
    """How to get the paper's pooling, where it is not the model's own."""
    if config.pooling == PAPERS_POOLING:
        return []
    return [
        f"A scene embedding is {config.pooling} over the time steps of a clip, side by side. The paper's pooling, "
        f'{config.embedding_size} numbers per clip, is `load_model("{load_from}", pooling="{PAPERS_POOLING}")`.'
    ]


def _read_source(path: Path) -> dict:
    if not path.is_file():
        return {}
    source = read_json(path)
    unknown = sorted(set(source) - set(_KEYS)) if isinstance(source, dict) else source
    if unknown or not isinstance(source, dict):
        raise HearMwmaeError(f"{path}: unknown keys {unknown!r}; it takes {sorted(_KEYS)}")
    for key, value in source.items():
        if not isinstance(value, _KEYS[key]):
            raise HearMwmaeError(f"{path}: {key} must be a {_KEYS[key].__name__}, got {value!r}")
    for row in source.get("results", []):
        named = isinstance(row, dict) and isinstance(row.get("task"), str) and isinstance(row.get("metric"), str)
        if not named or "value" not in row:
            raise HearMwmaeError(f"{path}: a row of results has task and metric, which are words, and value; got {row!r}")
    return source


def _results_table(results: list[dict]) -> str:
    columns = list(results[0])
    lines = ["| " + " | ".join(column.replace("_", " ") for column in columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(str(row.get(column, "")) for column in columns) + " |" for row in results]
    return "\n".join(lines)
