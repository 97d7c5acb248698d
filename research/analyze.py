"""Attention distance and entropy of every head, PWCCA and CKA between heads, as in the paper.

    python -m research.analyze sounds/ speech/ -o OUT --model MW-MAE=mwmae-tiny \\
        --model MAE=runs/mae/model

Measures the models, and the same with random weights, over one crop of every clip, and writes
figures (.png), their tables (.csv) and summary.md to OUT.
"""

from pathlib import Path

import click
import pandas as pd
import torch

from hear_mwmae.bootstrap import bootstrap_counts
from hear_mwmae.cli.options import DEVICE, Command, models_option, named_models, out_option
from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.files import write_text
from hear_mwmae.mae import MaskedAutoencoder

from .analysis import figures, tables
from .analysis.crops import choose_files, read_crops
from .analysis.measure import COMPARED, VIEWS, Measured, measure


def load_models(
    sources: dict[str, str], untrained: bool, seed: int
) -> dict[str, MaskedAutoencoder]:
    """The models by name; with ``untrained``, one of random weights of every kind among them."""
    models = {}
    kinds = []
    for name, source in sources.items():
        models[name] = MaskedAutoencoder.from_pretrained(source).eval()
        config = models[name].config
        if untrained and config not in kinds:
            kinds.append(config)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                models[f"{name}, untrained"] = MaskedAutoencoder(config).eval()
    return models


def write_similarities(found: Measured, out: Path) -> None:
    """The similarity of all pairs of heads, as tables and a picture."""
    for view in COMPARED:
        name = f"{view.part}-{found.name.replace(', ', '-')}"
        for kind in ("pwcca", "cka"):
            values = pd.DataFrame(getattr(found.similarity[view], kind))
            write_text(out / f"{kind}-{name}.csv", values.to_csv(index=False))
        figures.save(figures.similarity_matrix(found, view), out / f"pwcca-{name}.png")


@click.command(cls=Command, help=__doc__)
@click.argument("audio", nargs=-1, required=True)
@out_option("Folder to write.", folder=True)
@models_option()
@click.option("--untrained/--no-untrained", default=True, help="Also measure random weights.")
@click.option("--clips", default=100, show_default=True, help="Clips per folder; 0: all.")
@click.option("--tokens", default=10_000, show_default=True, help="Samples for PWCCA and CKA.")
@click.option("--draws", default=200, show_default=True, help="Bootstrap draws over clips.")
@click.option("--seed", default=0, show_default=True)
@DEVICE
def main(
    audio: tuple[str, ...],
    out: Path,
    models: tuple[str, ...],
    untrained: bool,
    clips: int,
    tokens: int,
    draws: int,
    seed: int,
    device: str,
) -> None:
    files = choose_files(audio, clips, seed)
    if len(files) < 2:
        raise HearMwmaeError(f"intervals over clips need 2 clips or more, got {len(files)}")
    out.mkdir(parents=True, exist_ok=True)
    counts = bootstrap_counts(len(files), draws, seed)
    measured = []
    for name, model in load_models(named_models(models), untrained, seed).items():
        crops = read_crops(files, model.config, seed)
        found = measure(model.to(device), name, crops, counts, tokens, seed)
        measured.append(found)
        write_similarities(found, out)
        click.echo(f"measured {name}")
    for view in VIEWS:
        name = f"heads-{view.part}-{'masked' if view.masked else 'unmasked'}.png"
        figures.save(figures.heads_over_blocks(measured, view), out / name)
    rows = {
        "heads": pd.DataFrame(tables.head_rows(measured)),
        "windows": pd.DataFrame(tables.window_rows(measured)),
        "spread": pd.DataFrame(tables.spread_rows(measured, counts)),
    }
    for name, table in rows.items():
        write_text(out / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    note = f"{len(files)} clips, a crop of each; 95 % intervals of {draws} draws of the clips."
    write_text(out / "summary.md", tables.summary(rows["spread"], rows["windows"], note))
    click.echo(f"{len(measured)} models, {len(files)} clips -> {out / 'summary.md'}")


if __name__ == "__main__":
    main()
