"""At most so many hours of a kind: a draw from manifests, when there is more audio than a run can
hear.

    python -m research.corpora.subset data/*/manifest.csv --hours music=4 --hours speech=6

writes subset.csv beside each manifest, for `hear-mwmae pack`. The limit is of each manifest.
"""

from __future__ import annotations

from pathlib import Path

import click
import pandas as pd

from hear_mwmae.cli.options import Command

from .manifest import hours, read_manifest, write_manifest

SUBSET = "subset.csv"


def draw(rows: pd.DataFrame, limits: dict[str, float], seed: int) -> pd.DataFrame:
    """Rows drawn until their kind reaches its hours, in their first order; kinds without a limit
    are kept.
    """
    drawn = rows.sample(frac=1, random_state=seed)
    before = drawn.groupby("kind")["seconds"].cumsum() - drawn["seconds"]
    most = drawn["kind"].map(limits).fillna(float("inf")) * 3600
    return drawn[before < most].sort_index()


def read_limit(text: str) -> tuple[str, float]:
    """KIND=HOURS."""
    kind, _, number = text.partition("=")
    try:
        return kind, float(number)
    except ValueError as error:
        raise click.BadParameter(f"expected KIND=HOURS, got {text}") from error


@click.command(cls=Command, help=__doc__)
@click.argument("manifests", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--hours", "limits", multiple=True, metavar="KIND=HOURS", help="Limit of a kind.")
@click.option("--seed", default=0, show_default=True)
def main(manifests: tuple[Path, ...], limits: tuple[str, ...], seed: int) -> None:
    """Run the command line."""
    wanted = dict(map(read_limit, limits))
    contents = {path: read_manifest(path) for path in manifests}
    kinds = set(pd.concat(contents.values())["kind"])
    if unknown := sorted(wanted.keys() - kinds):
        raise click.UsageError(f"no kind {unknown[0]} in the manifests, only {sorted(kinds)}")
    subsets = {path: draw(rows, wanted, seed) for path, rows in contents.items()}
    for path, subset in subsets.items():
        write_manifest(path.with_name(SUBSET), subset)
    click.echo(hours(pd.concat(subsets.values())))


if __name__ == "__main__":
    main()
