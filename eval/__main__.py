"""`python -m eval`, in a checkout: HEAR tasks with HEAR's evaluation kit, from embeddings to a
page.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from tqdm import tqdm

from hear_mwmae.cli.options import TASKS, Group, jobs_option, out_option
from hear_mwmae.errors import HearMwmaeError, needs_extra
from hear_mwmae.files import write_text
from hear_mwmae.tasks import find_tasks

try:
    with needs_extra("eval", "the evaluation"):
        from . import fetch, scores
        from .check import problems_of
        from .embed import Model, embed_task, is_embedded
        from .kit import PROTOCOLS
        from .predict import missing_results, predict_all
        from .report import page
        from .tasks import registry
except HearMwmaeError as error:
    sys.exit(f"Error: {error}")

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
NAMES_HELP = "Only this task. Repeatable."
NAMES = click.option("--task", "names", multiple=True, metavar="FOLDER", help=NAMES_HELP)
RESULTS = click.argument("results", nargs=-1, required=True, type=FOLDER)
PROTOCOL = click.option(
    "--protocol",
    type=click.Choice(list(PROTOCOLS)),
    default="paper",
    show_default=True,
    help="Grid of predictors.",
)


@click.group(cls=Group, context_settings={"max_content_width": 100})
def main() -> None:
    """Evaluate any HEAR module on HEAR tasks, with heareval.

    \b
    python -m eval fetch tasks/                            download HEAR's tasks
    python -m eval check tasks/                            check that they are complete
    python -m eval embed tasks/ -o results/mine --module hear_mwmae
    python -m eval predict results/mine --protocol paper --seeds 0-9
    python -m eval scores results/mine results/other
    python -m eval report results/mine results/other -o report.html
    """


@main.command("fetch", short_help="Download HEAR's tasks, resampled to 16 kHz.")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@NAMES
@click.option(
    "--record", default=fetch.RECORD, show_default=True, help="Zenodo record of the files."
)
def fetch_command(folder: Path, names: tuple[str, ...], record: str) -> None:
    """Download the tasks of eval/tasks.csv, or some of them, into FOLDER, resampled to 16 kHz.

    The same command resumes an interrupted download. The table has the names, sources and licences
    of the ten tasks of the paper.
    """
    known = registry()
    if unknown := sorted(set(names) - known.keys()):
        raise HearMwmaeError(f"no task {', '.join(unknown)}; there are {', '.join(known)}")
    wanted = [name for name in dict.fromkeys(names or known) if not (folder / name).is_dir()]
    archives = fetch.read_record(record) if wanted else []
    failed = False
    for name in wanted:
        try:
            fetch.fetch_task(name, folder, archives)
            click.echo(f"{name}: fetched")
        except (HearMwmaeError, OSError) as error:
            failed = True
            click.echo(f"{name}: not fetched: {error}", err=True)
    click.echo(f"{len(names or known) - len(wanted)} tasks were already fetched")
    sys.exit(failed)


@main.command("check", short_help="Check task folders.")
@TASKS
@click.option("--sample-rate", default=16000, show_default=True, help="Of the audio to check.")
def check_command(tasks: tuple[Path, ...], sample_rate: int) -> None:
    """Check TASKS, task folders or folders of them: whether heareval can embed and predict them.

    The exit code is 1 if there are problems.
    """
    bad = False
    for folder in find_tasks(tasks):
        problems = problems_of(folder, sample_rate)
        bad |= bool(problems)
        click.echo(f"{folder.name}: {'; '.join(problems) or 'complete'}")
    sys.exit(bad)


@main.command("embed", short_help="Embed tasks with a model.")
@TASKS
@out_option("Folder of results, named after the model.", folder=True)
@click.option("--module", default="hear_mwmae", show_default=True, help="Name of a HEAR module.")
@click.option("--model", help="Argument of the module's load_model; its default if not given.")
@click.option("--model-options", default="{}", help="JSON, further arguments of load_model.")
def embed_command(
    tasks: tuple[Path, ...], out: Path, module: str, model: str | None, model_options: str
) -> None:
    """Embed TASKS, task folders or folders of them, with a model.

    Existing embeddings are kept. A task that is not complete does not stop the others.
    """
    try:
        options = json.loads(model_options)
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise HearMwmaeError(f"--model-options must be a JSON object, got {model_options}")
    found = find_tasks(tasks)
    hear_model = Model(module, model, options)
    done = failures = 0
    for folder in found:
        try:
            if not is_embedded(hear_model, folder, out):
                embed_task(hear_model, folder, out)
                done += 1
        except (HearMwmaeError, OSError) as error:
            failures += 1
            click.echo(f"not embedded: {error}", err=True)
    kept = len(found) - done - failures
    click.echo(f"{done} of {done + failures} tasks embedded into {out}, {kept} already embedded")
    sys.exit(bool(failures))


def _seeds(ctx: click.Context, param: click.Parameter, value: str) -> list[int]:
    seeds: list[int] = []
    for part in value.split(","):
        first, _, last = part.partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            raise click.BadParameter(f"{value!r} is not like 0-9 or 0,4,7")
        numbers = range(int(first), int(last or first) + 1)
        if not numbers:
            raise click.BadParameter(f"{part!r} is no range of seeds")
        seeds += numbers
    return seeds


@main.command("predict", short_help="Train and test predictors on embeddings.")
@click.argument("results", type=FOLDER)
@PROTOCOL
@click.option("--seeds", callback=_seeds, default="0-9", show_default=True, help="0-9, or 0,4,7.")
@NAMES
@jobs_option("Processes; each holds several copies of a task's embeddings.")
def predict_command(
    results: Path, protocol: str, seeds: list[int], names: tuple[str, ...], jobs: int
) -> None:
    """Train and test predictors on the embeddings in RESULTS: one process and one file per task and
    seed.

    Existing results are kept, and a failed prediction does not stop the others. A scheduler can
    distribute the work by --task and --seeds.
    """
    missing = missing_results(results, protocol, seeds, names)
    failures = 0
    with tqdm(total=len(missing), desc="predictions", disable=None) as bar:
        for result, failure in predict_all(missing, jobs):
            bar.update()
            if failure:
                failures += 1
                tqdm.write(f"failed: {result}: {failure}", sys.stderr)
            else:
                tqdm.write(f"{result}: {scores.task_score(result.read()['scores']):.1f}")
    click.echo(f"{len(missing) - failures} of {len(missing)} predictions done")
    sys.exit(bool(failures))


def _read(results: tuple[Path, ...], protocol: str) -> dict[str, scores.ModelScores]:
    models = {path.resolve().name: scores.read_scores(path, protocol) for path in results}
    if len(models) < len(results):
        raise HearMwmaeError("two of these folders have the same name: models need different names")
    if empty := [name for name, found in models.items() if not found]:
        raise HearMwmaeError(f"no results under protocol {protocol} in {', '.join(empty)}")
    return models


@main.command("scores", short_help="Print a table of scores.")
@RESULTS
@PROTOCOL
def scores_command(results: tuple[Path, ...], protocol: str) -> None:
    """Print a Markdown table of the models in RESULTS... and of published rows, with 95 % intervals
    over seeds.
    """
    table = scores.table(_read(results, protocol), protocol)
    click.echo(table.to_markdown(index=False, tablefmt="github", disable_numparse=True))


@main.command("report", short_help="Write a page about models.")
@RESULTS
@PROTOCOL
@out_option("The .html to write.", folder=False)
def report_command(results: tuple[Path, ...], protocol: str, out: Path) -> None:
    """Write one page about the models in RESULTS...: their scores, the paper's, and what made
    them.
    """
    if out.suffix != ".html":
        raise HearMwmaeError(f"the page must end in .html, got {out}")
    folders = {path.resolve().name: path for path in results}
    write_text(out, page(_read(results, protocol), protocol, folders))
    click.echo(f"report -> {out}")


if __name__ == "__main__":
    main()
