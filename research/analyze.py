"""Attention distance and entropy of every head, and PWCCA between heads, as in the paper.

    python -m research.analyze sounds/ speech/ -o OUT --model MW-MAE=mwmae-tiny \\
        --model MAE=runs/mae/model

Measures the models, and the same with random weights, over one crop of every clip, and writes
figures (.png), heads.csv and summary.md to OUT.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pandas as pd
import torch
from torch import Tensor

from hear_mwmae.audio import find_audio, read_audio
from hear_mwmae.cli.options import DEVICE, Command, models_option, named_models, out_option
from hear_mwmae.config import ModelConfig
from hear_mwmae.files import write_text
from hear_mwmae.frontend import LogMelFrontend, reflect_index
from hear_mwmae.mae import MaskedAutoencoder

from .analysis import figures
from .analysis.measure import COMPARED, VIEWS, Measured, by_window, measure


def load_models(sources: dict[str, str], seed: int) -> Iterator[tuple[str, MaskedAutoencoder]]:
    """The models by name, and one of random weights after the first of every configuration."""
    configs: list[ModelConfig] = []
    for name, source in sources.items():
        model = MaskedAutoencoder.from_pretrained(source)
        yield name, model
        if model.config not in configs:
            configs.append(model.config)
            torch.manual_seed(seed)
            yield f"{name}, untrained", MaskedAutoencoder(model.config)


def read_crops(files: Sequence[Path], config: ModelConfig, seed: int) -> Tensor:
    """(files, input_frames, bands) float32: one crop of every file, at a place drawn by ``seed``.

    Features are normalised over the clip, as at inference. A clip shorter than a crop is continued
    by reflection.
    """
    frontend = LogMelFrontend(config.frontend)
    places = random.Random(seed)
    crops = []
    for file in files:
        features = frontend(read_audio(file, config.frontend.sample_rate)[None])[0]
        start = places.randint(0, max(len(features) - config.input_frames, 0))
        crops.append(features[reflect_index(len(features), start, start + config.input_frames)])
    return torch.stack(crops)


def spreads(values: pd.DataFrame) -> dict[str, float]:
    """How the heads of a model spread; values (blocks, heads)."""
    every = values.stack()
    return {
        "mean": every.mean(),
        "SD over all heads": every.std(ddof=0),
        "mean SD within blocks": values.std(axis=1, ddof=0).mean(),
        "range": every.max() - every.min(),
    }


def summary(models: dict[str, list[Measured]]) -> str:
    """The main numbers as Markdown; the views of every model by its name."""
    sections = []
    for number, view in enumerate(VIEWS):
        for name in ("distance", "entropy"):
            rows = {}
            for model, found in models.items():
                rows[model] = spreads(
                    found[number].heads.pivot(index="block", columns="head")[name]
                )
            sections.append(f"**Attention {name} of the heads: {view}**\n\n{markdown(rows)}")
    for view in COMPARED:
        rows = {}
        for model, found in models.items():
            one = found[VIEWS.index(view)]
            rows[model] = {"noise": one.noise, **by_window(one)}
        sections.append(f"**PWCCA of heads in different blocks: {view}**\n\n{markdown(rows)}")
    return "\n\n".join(sections) + "\n"


def markdown(rows: dict[str, dict[str, float]]) -> str:
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
    return table.to_markdown(floatfmt=".3g")


@click.command(cls=Command, help=__doc__)
@click.argument("audio", nargs=-1, required=True)
@out_option("Folder to write.", folder=True)
@models_option()
@click.option("--clips", default=200, show_default=True, help="Clips to draw; all if fewer.")
@click.option("--tokens", default=10_000, show_default=True, help="Samples for PWCCA.")
@click.option("--seed", default=0, show_default=True)
@DEVICE
def main(
    audio: tuple[str, ...],
    out: Path,
    models: tuple[str, ...],
    clips: int,
    tokens: int,
    seed: int,
    device: str,
) -> None:
    files = find_audio(audio)
    files = sorted(random.Random(seed).sample(files, min(clips, len(files))))
    out.mkdir(parents=True, exist_ok=True)
    measured = {}
    for name, model in load_models(named_models(models), seed):
        crops = read_crops(files, model.config, seed).to(device)
        model.eval().to(device)
        measured[name] = [measure(model, view, crops, tokens, seed) for view in VIEWS]
    tables = []
    for number, view in enumerate(VIEWS):
        heads = {name: found[number].heads for name, found in measured.items()}
        tables += [heads[name].assign(model=name, view=str(view)) for name in heads]
        picture = f"heads-{view.part}-{'masked' if view.masked else 'unmasked'}.png"
        figures.save(figures.heads_over_blocks(heads, view), out / picture)
        for name, found in measured.items():
            if view in COMPARED:
                picture = f"pwcca-{view.part}-{name.replace(', ', '-')}.png"
                title = f"{name}: {view.part} heads by window, block"
                figures.save(figures.similarity_matrix(found[number], title), out / picture)
    table = pd.concat(tables).set_index(["model", "view", "block", "head"])
    write_text(out / "heads.csv", table.to_csv(float_format="%.6g"))
    write_text(out / "summary.md", f"{len(files)} clips, a crop of each.\n\n{summary(measured)}")
    click.echo(f"{len(measured)} models, {len(files)} clips -> {out / 'summary.md'}")


if __name__ == "__main__":
    main()
