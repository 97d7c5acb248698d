"""At most so many hours of a kind: a draw from manifests, when there is more audio than a run can
hear.

    python -m corpora.subset data/{debian,procedural,notes,speech}/manifest.csv \\
        --hours music=4 --hours speech=6

writes subset.csv beside each manifest, for `hear-mwmae pack`.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import click

from hear_mwmae.cli.options import Command

from .manifest import COLUMNS, print_hours, read_manifest, write_manifest

SUBSET = "subset.csv"


def draw(rows: list[dict[str, str]], hours: dict[str, float], generator: random.Random) -> list[dict[str, str]]:
    """Rows in the order of their paths, drawn until their kind reaches its ``hours``; kinds that it
    does not name are kept.
    """
    generator.shuffle(rows)
    seconds: Counter[str] = Counter()
    drawn = []
    for row in rows:
        kind = row["kind"]
        if seconds[kind] < hours.get(kind, float("inf")) * 3600:
            seconds[kind] += float(row["seconds"])
            drawn.append(row)
    return sorted(drawn, key=lambda row: row["path"])


def limit(context: click.Context, option: click.Option, values: tuple[str, ...]) -> dict[str, float]:
    """KIND=HOURS, as often as given."""
    try:
        return {kind: float(hours) for kind, hours in (value.split("=") for value in values)}
    except ValueError as error:
        raise click.BadParameter(f"expected KIND=HOURS, got {' '.join(values)}") from error


@click.command(cls=Command, help=__doc__)
@click.argument("manifests", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--hours", multiple=True, callback=limit, metavar="KIND=HOURS", help="Limit of a kind, in each manifest.")
@click.option("--seed", default=0, show_default=True)
def main(manifests: tuple[Path, ...], hours: dict[str, float], seed: int) -> None:
    """Run the command line."""
    generator, kept = random.Random(seed), []
    contents = {manifest: list(read_manifest(manifest)) for manifest in manifests}
    kinds = {row["kind"] for rows in contents.values() for row in rows}
    if unknown := sorted(hours.keys() - kinds):
        raise click.UsageError(f"no kind {', '.join(unknown)} in the manifests; there are: {', '.join(sorted(kinds))}")
    for manifest, content in contents.items():
        rows = [[row[column] for column in COLUMNS] for row in draw(content, hours, generator)]
        write_manifest(manifest.parent, rows, SUBSET)
        kept += rows
    print_hours(kept)


if __name__ == "__main__":
    main()
