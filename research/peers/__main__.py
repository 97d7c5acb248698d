"""The embedded model beside what a person could install instead, by linear probes.

    python -m research.peers TASK... -o FOLDER [--only KEY ...]

Measures all encoders, or those of --only, and prints the tables of all that FOLDER has results of.
FOLDER has a JSON file for each encoder, which is replaced. TASKS are HEAR tasks with one label per
clip, or folders of them; without any, the tables are printed. An encoder whose package is missing
is not measured; a line says how to install it.
"""

from pathlib import Path

import click

from hear_mwmae.cli.options import Command, out_option
from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.files import write_text

from . import encoders
from .measure import Result, measure, tasks_by_name
from .tables import Results, all_tables, task_table


@click.command(cls=Command, help=__doc__)
@click.argument("tasks", nargs=-1, type=click.Path(exists=True, file_okay=False, path_type=Path))
@out_option("Folder of the results.", folder=True)
@click.option("--only", "keys", multiple=True, type=click.Choice(list(encoders.LOADERS)))
def main(tasks: tuple[Path, ...], out: Path, keys: tuple[str, ...]) -> None:
    read = tasks_by_name(tasks)
    out.mkdir(parents=True, exist_ok=True)
    results: Results = []
    for encoder in encoders.read_encoders():
        file = out / f"{encoder.key}.json"
        if read and (not keys or encoder.key in keys):
            click.echo(f"{encoder.title}: measuring", err=True)
            try:
                write_text(file, measure(encoder, read).model_dump_json(indent=1) + "\n")
            except ImportError as error:
                click.echo(f"{encoder.title}: {error}: {encoder.install}", err=True)
        if file.is_file():
            results.append((encoder, Result.model_validate_json(file.read_bytes())))
    if not results:
        raise HearMwmaeError(f"{out} has no results")
    for encoder, result in results:
        if task_table(result) != task_table(results[0][1]):
            first = results[0][0].key
            raise HearMwmaeError(f"{encoder.key} has results of other tasks than {first}")
    click.echo(all_tables(results))


if __name__ == "__main__":
    main()
