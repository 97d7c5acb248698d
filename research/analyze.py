"""Attention distance and entropy of every head, and PWCCA between heads, as in the paper.

    python -m research.analyze sounds/ speech/ -o OUT --model MW-MAE=mwmae-tiny \\
        --model MAE=runs/mae/model

Measures the models, and the same with random weights, over one crop of every clip, and writes
figures (.png), heads.csv and summary.md to OUT.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch

from hear_mwmae.bootstrap import Estimate, bootstrap_counts
from hear_mwmae.cli.options import DEVICE, Command, models_option, named_models, out_option
from hear_mwmae.config import ModelConfig
from hear_mwmae.files import write_text
from hear_mwmae.mae import MaskedAutoencoder

from .analysis import figures
from .analysis.crops import choose_files, read_crops
from .analysis.measure import COMPARED, VIEWS, Measured, View, measure

#: How the heads of a model spread, from their means over clips (..., blocks, heads).
SPREADS = {
    "mean": lambda heads: heads.mean(axis=(-2, -1)),
    "SD over all heads": lambda heads: heads.std(axis=(-2, -1)),
    "mean SD within blocks": lambda heads: heads.std(axis=-1).mean(axis=-1),
    "range": lambda heads: heads.max(axis=(-2, -1)) - heads.min(axis=(-2, -1)),
}
#: Draws of the bootstrap over clips.
DRAWS = 200


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


def head_table(measured: Sequence[Measured]) -> pd.DataFrame:
    """A row per model, view, block and head: means over the clips."""
    rows = []
    for model in measured:
        for view in VIEWS:
            for block, head in np.ndindex(model.heads(view, "distance").shape):
                row = {"model": model.name, "view": str(view), "block": block + 1}
                row |= {"head": head + 1, "window": model.windows(view)[head]}
                for name in model.statistics[view]:
                    row[name] = model.heads(view, name)[block, head]
                rows.append(row)
    return pd.DataFrame(rows)


def spread_table(measured: Sequence[Measured], view: View, name: str, seed: int) -> pd.DataFrame:
    """A row per model, a column per kind of spread, with 95 % intervals over the clips: the same
    draws for all models.
    """
    rows = []
    for model in measured:
        clips = model.statistics[view][name]
        weights = bootstrap_counts(len(clips), DRAWS, seed) / len(clips)
        drawn = np.tensordot(weights, clips, axes=1)
        row = {"model": model.name}
        for kind, spread in SPREADS.items():
            estimate = Estimate.of(spread(clips.mean(axis=0)), spread(drawn))
            row[kind] = "{:.3g} [{:.3g}, {:.3g}]".format(*estimate)
        rows.append(row)
    return pd.DataFrame(rows)


def window_table(measured: Sequence[Measured]) -> pd.DataFrame:
    """A row per view and model with unequal windows."""
    rows = []
    for view in COMPARED:
        for model in measured:
            if len(set(model.windows(view))) > 1:
                equal, unequal = model.by_window(view)
                row = {"model": model.name, "view": str(view), "noise": model.null[view]}
                row |= {"equal": equal, "unequal": unequal, "difference": equal - unequal}
                rows.append(row)
    return pd.DataFrame(rows)


def summary(measured: Sequence[Measured], seed: int) -> str:
    """The main numbers as Markdown."""
    clips = len(measured[0].statistics[VIEWS[0]]["distance"])
    sections = [f"{clips} clips, a crop of each; 95 % intervals of {DRAWS} draws of the clips."]
    for view in VIEWS:
        for name in ("distance", "entropy"):
            table = spread_table(measured, view, name, seed).to_markdown(index=False)
            sections.append(f"**Attention {name} of the heads: {view}**\n\n{table}")
    table = window_table(measured).to_markdown(index=False, floatfmt=".3g")
    sections.append(f"**PWCCA of heads in different blocks, by their windows**\n\n{table}")
    return "\n\n".join(sections) + "\n"


@click.command(cls=Command, help=__doc__)
@click.argument("audio", nargs=-1, required=True)
@out_option("Folder to write.", folder=True)
@models_option()
@click.option("--clips", default=100, show_default=True, help="Clips per folder; 0: all.")
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
    files = choose_files(audio, clips, seed)
    out.mkdir(parents=True, exist_ok=True)
    measured = []
    for name, model in load_models(named_models(models), seed):
        crops = read_crops(files, model.config, seed)
        found = measure(model.eval().to(device), name, crops, tokens, seed)
        measured.append(found)
        for view in COMPARED:
            picture = f"pwcca-{view.part}-{name.replace(', ', '-')}.png"
            figures.save(figures.similarity_matrix(found, view), out / picture)
    for view in VIEWS:
        picture = f"heads-{view.part}-{'masked' if view.masked else 'unmasked'}.png"
        figures.save(figures.heads_over_blocks(measured, view), out / picture)
    write_text(out / "heads.csv", head_table(measured).to_csv(index=False, float_format="%.6g"))
    write_text(out / "summary.md", summary(measured, seed))
    click.echo(f"{len(measured)} models, {len(files)} clips -> {out / 'summary.md'}")


if __name__ == "__main__":
    main()
