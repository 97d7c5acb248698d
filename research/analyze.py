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
from .analysis.measure import COMPARED, VIEWS, by_window, measure


def load_models(sources: dict[str, str]) -> Iterator[tuple[str, MaskedAutoencoder]]:
    """The models by name, and one of random weights after the first of every configuration."""
    configs: list[ModelConfig] = []
    for name, source in sources.items():
        model = MaskedAutoencoder.from_pretrained(source)
        yield name, model
        if model.config not in configs:
            configs.append(model.config)
            torch.manual_seed(0)
            yield f"{name}, untrained", MaskedAutoencoder(model.config)


def read_crops(files: Sequence[Path], config: ModelConfig) -> Tensor:
    """(files, input_frames, bands) float32: one crop of every file, at a random place.

    Features are normalised over the clip, as at inference. A clip shorter than a crop is continued
    by reflection.
    """
    frontend = LogMelFrontend(config.frontend)
    places = random.Random(0)
    crops = []
    for file in files:
        features = frontend(read_audio(file, config.frontend.sample_rate)[None])[0]
        start = places.randint(0, max(len(features) - config.input_frames, 0))
        crops.append(features[reflect_index(len(features), start, start + config.input_frames)])
    return torch.stack(crops)


def spreads(heads: pd.DataFrame, name: str) -> pd.DataFrame:
    """How "distance" or "entropy" spreads over the heads, for every view and model."""
    every = heads.groupby(["view", "model"], sort=False)[name]
    within = heads.groupby(["view", "model", "block"], sort=False)[name].std(ddof=0)
    columns = {
        "mean": every.mean(),
        "SD over all heads": every.std(ddof=0),
        "mean SD within blocks": within.groupby(["view", "model"], sort=False).mean(),
        "range": every.max() - every.min(),
    }
    return pd.DataFrame(columns).reset_index()


@click.command(cls=Command, help=__doc__)
@click.argument("audio", nargs=-1, required=True)
@out_option("Folder to write.", folder=True)
@models_option()
@click.option(
    "--clips",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="Clips to draw; all if fewer.",
)
@DEVICE
def main(
    audio: tuple[str, ...], out: Path, models: tuple[str, ...], clips: int, device: str
) -> None:
    files = find_audio(audio)
    files = sorted(random.Random(0).sample(files, min(clips, len(files))))
    out.mkdir(parents=True, exist_ok=True)
    heads, windows = [], []
    for name, model in load_models(named_models(models)):
        crops = read_crops(files, model.config).to(device)
        for view in VIEWS:
            found = measure(model.eval().to(device), view, crops)
            key = {"view": str(view), "model": name}
            heads.append(found.heads.assign(**key))
            if view in COMPARED:
                windows.append({**key, "noise": found.noise, **by_window(found)})
                title = f"{name}: {view.part} heads by window, block"
                picture = f"pwcca-{view.part}-{name.replace(', ', '-')}.png"
                figures.save(figures.similarity_matrix(found, title), out / picture)
    table = pd.concat(heads)
    for view in VIEWS:
        picture = f"heads-{view.part}-{'masked' if view.masked else 'unmasked'}.png"
        shown = table[table["view"] == str(view)]
        figures.save(figures.heads_over_blocks(shown, view), out / picture)
    write_text(out / "heads.csv", table.to_csv(index=False, float_format="%.6g"))
    summary = {
        "Attention distance of the heads, in patches": spreads(table, "distance"),
        "Attention entropy of the heads, of its largest value": spreads(table, "entropy"),
        "PWCCA of heads in different blocks, by their windows": pd.DataFrame(windows),
    }
    text = f"{len(files)} clips, a crop of each.\n"
    for title, rows in summary.items():
        text += f"\n**{title}**\n\n{rows.to_markdown(index=False, floatfmt='.3g')}\n"
    write_text(out / "summary.md", text)
    click.echo(f"{table['model'].nunique()} models, {len(files)} clips -> {out / 'summary.md'}")


if __name__ == "__main__":
    main()
