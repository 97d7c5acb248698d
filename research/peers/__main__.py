"""The embedded model beside what a person could install instead, by linear probes.

    python -m research.peers TASK... -o FOLDER [--page docs/comparison.md]

TASKS are HEAR tasks with one label per clip, or folders of them. FOLDER keeps a JSON file for each
encoder: what it has is not measured again, unless the task, the weights or the version of the
package changed. An encoder whose package is missing is not measured, and keeps the results that it
has; a line says how to install it. Prints a short table; --page replaces the tables of a page.
"""

from __future__ import annotations

from pathlib import Path

import click

from hear_mwmae.cli.options import TASKS, Command, out_option
from hear_mwmae.errors import HearMwmaeError

from . import encoders
from .measure import fingerprint, kept, measure, read_tasks
from .page import all_tables, markdown, replace_tables, short_table


@click.command(cls=Command, help=__doc__)
@TASKS
@out_option("Folder that keeps the results.", folder=True)
@click.option(
    "--only",
    "keys",
    multiple=True,
    metavar="ENCODER",
    help="Measure only this encoder, by the name of its file. Repeatable.",
)
@click.option(
    "--page",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Page whose tables are replaced.",
)
def main(tasks: tuple[Path, ...], out: Path, keys: tuple[str, ...], page: Path | None) -> None:
    known = [kind.key for kind in encoders.ENCODERS]
    if unknown := set(keys) - set(known):
        raise click.UsageError(f"no encoder {unknown.pop()}; there are {', '.join(known)}")
    read = read_tasks(tasks)
    prints = {name: fingerprint(task) for name, task in read.items()}
    out.mkdir(parents=True, exist_ok=True)
    results = []
    for kind in encoders.ENCODERS:
        if not keys or kind.key in keys:
            measure(kind, read, prints, out, lambda text: click.echo(text, err=True))
        if result := kept(out, kind, prints):
            results.append(result)
    if not results:
        raise HearMwmaeError("no encoder has results of these tasks")
    if page:
        replace_tables(page, all_tables(results, read))
    click.echo(markdown(short_table(results, read)))


if __name__ == "__main__":
    main()
