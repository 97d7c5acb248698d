"""The paper's second claim in small: MAE and MW-MAE over sizes of the encoder and amounts of data,
at equal steps.

    python benchmarks/scaling.py PACK OUT TASK... [--steps 600] [--size tiny --size small]
    [--fraction 0.1 --fraction 1]

Every cell is a run of `hear-mwmae pretrain` in OUT/KIND-SIZE-FRACTION-SEED and a linear probe of
all tasks. A cell whose run is unfinished resumes, and a probed one is left out, so that the same
command goes on after any interruption. OUT/scaling.csv has a row per cell and task, with a 95 %
bootstrap interval over clips; OUT/scaling.png and .svg show the means over the tasks.
"""

from __future__ import annotations

import csv
import json
from itertools import product
from pathlib import Path

import click
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from hear_mwmae.analysis.figures import BLUE, ORANGE, STYLE, save
from hear_mwmae.cli.options import TASKS, Command
from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.files import replacing, write_text
from hear_mwmae.baselines import load_probed
from hear_mwmae.probe import mean, score_models
from hear_mwmae.tasks import Task, read_task
from hear_mwmae.training.loop import pretrain
from hear_mwmae.training.recipe import Recipe

KINDS = {"mae": BLUE, "mwmae": ORANGE}
FIELDS = ("kind", "size", "fraction", "seed", "task", "score", "low", "high")
#: The task of the rows of the means.
MEAN = "mean"
MARKS = "osD^v"
#: All that must not change while a grid goes on.
SETTINGS = "settings.json"


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows so far."""
    if not path.is_file():
        return []
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    with replacing(path) as temporary, open(temporary, "w", newline="") as stream:
        writer = csv.DictWriter(stream, FIELDS)
        writer.writeheader()
        writer.writerows(rows)


def probe_cell(cell: dict[str, str], model: Path, tasks: list[Task], pooling: str) -> list[dict[str, str]]:
    """A row per task, and one of their mean."""
    scored = [row["model"] for row in score_models(tasks, {"model": load_probed(str(model), pooling)})]
    named = zip([*(task.folder.resolve().name for task in tasks), MEAN], [*scored, mean(scored)], strict=True)
    estimates = {name: dict(zip(("score", "low", "high"), one.estimate, strict=True)) for name, one in named}
    return [{**cell, "task": name, **{key: f"{value:.2f}" for key, value in one.items()}} for name, one in estimates.items()]


def draw(rows: list[dict[str, str]]) -> Figure:
    """Means over the tasks against the share of the data: a colour per kind, a mark per size, a
    line per seed.
    """
    means = [row for row in rows if row["task"] == MEAN]
    sizes = list(dict.fromkeys(row["size"] for row in means))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 3.2), layout="constrained")
        axis = figure.subplots()
        labelled = set()
        for kind, size, seed in sorted({(row["kind"], row["size"], row["seed"]) for row in means}):
            cells = [row for row in means if (row["kind"], row["size"], row["seed"]) == (kind, size, seed)]
            cells.sort(key=lambda row: float(row["fraction"]))
            x = 100 * np.array([float(row["fraction"]) for row in cells])
            y, low, high = (np.array([float(row[name]) for row in cells]) for name in ("score", "low", "high"))
            label = f"{kind.upper().replace('MWMAE', 'MW-MAE')} {size}"
            axis.errorbar(
                x * 1.03 ** (kind == "mwmae"),  # beside each other
                y,
                (y - low, high - y),
                color=KINDS[kind],
                marker=MARKS[sizes.index(size) % len(MARKS)],
                linestyle="-" if size == sizes[0] else "--",
                capsize=2,
                label=label if label not in labelled else None,
            )
            labelled.add(label)
        axis.set_xscale("log")
        shares = sorted({100 * float(row["fraction"]) for row in means})
        axis.set_xticks(shares, [f"{share:g}" for share in shares])
        axis.minorticks_off()
        axis.set(xlabel="% of the clips", ylabel="mean score over the tasks")
        axis.legend(frameon=False)
    return figure


@click.command(cls=Command, help=__doc__)
@click.argument("pack")
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@TASKS
@click.option("--recipe", default="mwmae-tiny-cpu", show_default=True)
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change the recipe of all cells.")
@click.option("--steps", default=600, show_default=True, type=click.IntRange(1))
@click.option("--kind", "kinds", multiple=True, type=click.Choice(list(KINDS)), default=list(KINDS), show_default=True)
@click.option("--size", "sizes", multiple=True, default=["tiny", "small"], show_default=True)
@click.option("--fraction", "fractions", multiple=True, type=float, default=[0.1, 0.3, 1.0], show_default=True)
@click.option("--seed", "seeds", multiple=True, type=int, default=[0], show_default=True)
@click.option("--pooling", default="mean+std+max", show_default=True, help="Of the probed scene embeddings.")
def main(
    pack: str,
    out: Path,
    tasks: tuple[Path, ...],
    recipe: str,
    changes: tuple[str, ...],
    steps: int,
    kinds: tuple[str, ...],
    sizes: tuple[str, ...],
    fractions: tuple[float, ...],
    seeds: tuple[int, ...],
    pooling: str,
) -> None:
    read = [read_task(task) for task in tasks]
    out.mkdir(parents=True, exist_ok=True)
    settings = json.dumps([pack, sorted(str(task.resolve()) for task in tasks), recipe, changes, steps, pooling], indent=1)
    if (out / SETTINGS).is_file() and (out / SETTINGS).read_text() != settings:
        raise HearMwmaeError(f"{out} holds a grid with other settings: {out / SETTINGS}")
    write_text(out / SETTINGS, settings)
    table, rows = out / "scaling.csv", read_rows(out / "scaling.csv")
    # Both kinds of a cell after each other: what an interrupted grid has can be compared.
    for size, seed, fraction, kind in product(sizes, seeds, fractions, kinds):
        cell = {"kind": kind, "size": size, "fraction": f"{fraction:g}", "seed": str(seed)}
        if any(cell.items() <= row.items() for row in rows):
            continue
        name = "-".join(cell.values())
        here = [f"preset={kind}-{size}", f"data_fraction={fraction}", f"seed={seed}", f"steps={steps}"]
        if kind == "mae":
            here.append("model.decoder.window_sizes=[]")  # a recipe may name windows
        model = pretrain(Recipe.read(recipe, [*changes, *here]), pack, out / name)
        rows += probe_cell(cell, model, read, pooling)
        write_rows(table, rows)
        click.echo(f"{name}: {rows[-1]['score']} [{rows[-1]['low']}, {rows[-1]['high']}]")
    save(draw(rows), out, "scaling")


if __name__ == "__main__":
    main()
