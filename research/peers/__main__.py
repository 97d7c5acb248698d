"""The embedded model beside what a person could install instead, by linear probes.

    python -m research.peers TASK... -o FOLDER [--page docs/comparison.md]

TASKS are HEAR tasks with one label per clip, or folders of them. FOLDER keeps a JSON file for each
encoder, which is measured again if a task, the weights or the version of the package changed. An
encoder whose package is missing is not measured, and keeps the results that it has of these tasks;
a line says how to install it. Prints the tables; --page also replaces those of a page.
"""

from pathlib import Path

import click

from hear_mwmae.cli.options import TASKS, Command, out_option
from hear_mwmae.errors import HearMwmaeError

from . import encoders
from .measure import fingerprint, measure, stored, tasks_by_name
from .page import all_tables, replace_tables


@click.command(cls=Command, help=__doc__)
@TASKS
@out_option("Folder that keeps the results.", folder=True)
@click.option(
    "--only",
    "keys",
    multiple=True,
    type=click.Choice(list(encoders.LOADERS)),
    help="Measure only this encoder. Repeatable.",
)
@click.option(
    "--page",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Page whose tables are replaced.",
)
def main(tasks: tuple[Path, ...], out: Path, keys: tuple[str, ...], page: Path | None) -> None:
    read = tasks_by_name(tasks)
    prints = {name: fingerprint(task) for name, task in read.items()}
    out.mkdir(parents=True, exist_ok=True)
    results = []
    for encoder in encoders.read_encoders():
        result = stored(out, encoder, prints)
        asked = not keys or encoder.key in keys
        if asked and (missing := encoder.missing()):
            lacking = " and ".join(missing)
            click.echo(f"{encoder.title}: {lacking} missing: {encoder.install}", err=True)
        elif asked and not (result and result.version == encoder.version()):
            click.echo(f"{encoder.title}: measuring", err=True)
            measure(encoder, read, prints, out)
            result = stored(out, encoder, prints)
        if result:
            results.append(result)
    if not results:
        raise HearMwmaeError("no encoder has results of these tasks")
    tables = all_tables(results, read)
    if page:
        replace_tables(page, tables)
    click.echo(tables)


if __name__ == "__main__":
    main()
