"""`python -m eval`, in a checkout: HEAR tasks with the benchmark's own kit, from embeddings to a table."""

from __future__ import annotations

import json
import os
import shlex
import sys
import traceback
from pathlib import Path

import click

from hear_mwmae.commands import Group
from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.files import write_text

from . import fetch as fetching
from . import report as reporting
from . import scores as scoring
from .embed import Model, check_complete, disk_needed, hours_of, is_embedded, join_group, memory_needed
from .embed import embed as embed_task
from .kit import PROTOCOLS
from .predict import Job, do_job, job_bytes, list_jobs, run_jobs
from .tasks import check_task, count_clips, find_tasks, registry

RESULTS = click.argument("results", type=click.Path(file_okay=False, path_type=Path))
TASKS_DIR = click.argument("tasks_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
TASK = click.option("--task", "names", multiple=True, metavar="FOLDER", help="Only this task; may be given again.")
PROTOCOL = click.option("--protocol", type=click.Choice(list(PROTOCOLS)), default="paper", show_default=True)


class Seeds(click.ParamType):
    """0-9, or 3, or 0,4,7."""

    name = "seeds"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        try:
            seeds = []
            for part in str(value).split(","):
                first, _, last = part.partition("-")
                seeds += range(int(first), int(last or first) + 1)
            if not seeds:
                raise ValueError
            return seeds
        except ValueError:
            self.fail(f"{value!r} is not like 0-9 or 0,4,7", param, ctx)


SEEDS = click.option("--seeds", type=Seeds(), default="0-9", show_default=True)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """Evaluate any HEAR module on HEAR tasks, with heareval itself.

    \b
    python -m eval tasks                                           the paper's ten tasks
    python -m eval fetch TASKS_DIR                                 download them
    python -m eval check TASKS_DIR                                 what is complete and what is wrong
    python -m eval embed TASKS_DIR RESULTS/mine --module hear_mwmae
    python -m eval predict RESULTS/mine --protocol paper --seeds 0-9
    python -m eval scores RESULTS/mine RESULTS/other
    python -m eval report RESULTS/mine RESULTS/other -o report.html
    """


@main.command(short_help="List the tasks and their sources.")
def tasks() -> None:
    """List the tasks: the paper's ten, and the frame-level one. Sources, and who tells the licences, are in eval/tasks.csv."""
    for task in registry().values():
        length = f"{task.seconds:g} s" if task.seconds else "0.3 to 30 s"
        click.echo(
            f"{task.key:6} {task.folder:38} {task.metric:22} {task.splits:17} {task.clips:6,} clips of {length:11} {task.licence}"
        )


@main.command(short_help="Download tasks, resampled to 16 kHz.")
@click.argument("tasks_dir", type=click.Path(file_okay=False, path_type=Path))
@TASK
@click.option("--record", default=fetching.RECORD, show_default=True, help="Zenodo record that lists the files.")
@click.option("--jobs", type=click.IntRange(1), default=os.cpu_count() or 1, show_default=True, help="Processes that resample.")
@click.option("--keep", is_flag=True, help="Keep the archives and the 48 kHz audio.")
def fetch(tasks_dir: Path, names: tuple[str, ...], record: str, jobs: int, keep: bool) -> None:
    """Download tasks, all of the registry or those given, and resample them to 16 kHz. Interrupted anywhere, it goes on."""
    known = registry()
    if unknown := sorted(set(names) - known.keys()):
        raise HearMwmaeError(f"no task {', '.join(unknown)}; there are {', '.join(known)}")
    archives, failures = None, 0
    for name in dict.fromkeys(names or known):
        if fetching.is_fetched(known[name], tasks_dir):
            click.echo(f"{name}: was there already")
            continue
        archives = archives or fetching.read_record(record)
        try:
            fetching.fetch(known[name], tasks_dir, archives, jobs, keep)
            click.echo(f"{name}: fetched{_other_count(tasks_dir / name)}")
        except (HearMwmaeError, OSError) as error:
            failures += 1
            click.echo(f"{name}: not fetched: {error}", err=True)
    sys.exit(bool(failures))


def _other_count(folder: Path) -> str:
    """HEAR's page lists numbers of clips; what the task itself says counts, but a difference is worth a word."""
    task = registry().get(folder.name)
    clips = count_clips(folder)
    return "" if not task or clips == task.clips else f" ({clips:,} clips, where HEAR's page lists {task.clips:,})"


@main.command(short_help="Say which task folders are complete.")
@TASKS_DIR
@TASK
@click.option("--sample-rate", default=16000, show_default=True, help="Of the audio that is looked for.")
def check(tasks_dir: Path, names: tuple[str, ...], sample_rate: int) -> None:
    """Say which task folders are complete, and what is wrong with the others; then the exit code is 1."""
    bad, folders = False, find_tasks(tasks_dir, names)
    for folder in folders:
        problems = check_task(folder, sample_rate)
        bad |= bool(problems)
        click.echo(f"{folder.name}: {'; '.join(problems) or 'complete' + _other_count(folder)}")
    if not names:
        for folder in sorted(registry().keys() - {folder.name for folder in folders}):
            begun = (tasks_dir / fetching.WORK / folder).is_dir()
            click.echo(f"{folder}: {'`fetch` has begun, and would go on' if begun else 'not here'}")
    sys.exit(bad)


@main.command(short_help="Embed tasks with a model.")
@TASKS_DIR
@RESULTS
@click.option("--module", default="hear_mwmae", show_default=True, help="Import name of a HEAR module.")
@click.option("--model", help="What the module's load_model takes; its default when not given.")
@click.option("--model-options", default="{}", help="JSON, further arguments of load_model.")
@click.option(
    "--batch-size", type=click.IntRange(1), help="Clips at a time, where all are of one length; the kit's choice if not given."
)
@TASK
def embed(
    tasks_dir: Path,
    results: Path,
    module: str,
    model: str | None,
    model_options: str,
    batch_size: int | None,
    names: tuple[str, ...],
) -> None:
    """Embed tasks with a model into the folder RESULTS, which is named after the model. What is there is not made again.

    Under torchrun (python -m torch.distributed.run --nproc-per-node 8 -m eval embed ...) the clips of a task are shared out among
    the processes, each on a GPU of its own where there are some.
    """
    try:
        options = json.loads(model_options)
    except ValueError as error:
        raise HearMwmaeError(f"--model-options must be JSON: {error}") from error
    if not isinstance(options, dict):
        raise HearMwmaeError(f"--model-options must be a JSON object, got {model_options}")
    folders, (rank, world) = find_tasks(tasks_dir, names), join_group()
    hear_model = Model(module, model, options)
    done = failures = 0
    for folder in folders:
        try:
            if is_embedded(hear_model, folder, results):
                continue
            check_complete(hear_model, folder)
            if rank == 0:
                hours, disk = hours_of(folder, hear_model.embedding.sample_rate), disk_needed(hear_model, folder, world)
                memory = memory_needed(hear_model, folder)
                what = f"{hours:.2f} h of audio, {disk >> 20} MiB of disk, {memory >> 20} MiB of memory"
                click.echo(f"{folder.name}: {what} (with one clip at a time, more with more)")
            embed_task(hear_model, folder, results, batch_size, rank, world)
            done += 1
        except (HearMwmaeError, OSError) as error:
            if world > 1:  # the others wait for this one
                raise
            failures += 1
            click.echo(f"not embedded: {error}", err=True)
        except Exception:  # a bug, of this package or of the module: it is shown, and stops no other task
            if world > 1:
                raise
            failures += 1
            click.echo(f"not embedded: {folder}\n{traceback.format_exc()}", err=True)
    if rank == 0:
        click.echo(f"{done} of {done + failures} tasks embedded into {results}, {len(folders) - done - failures} were there")
    sys.exit(bool(failures))


@main.command(short_help="Train and test predictors on embeddings.")
@RESULTS
@PROTOCOL
@SEEDS
@TASK
@click.option(
    "--jobs", type=click.IntRange(1), default=os.cpu_count() or 1, show_default=True, help="At a time, as memory allows."
)
def predict(results: Path, protocol: str, seeds: list[int], names: tuple[str, ...], jobs: int) -> None:
    """Train and test predictors on the embeddings in RESULTS: a process and a file per task and seed.

    What is there is not computed again; one that fails stops no other.
    """
    missing = list_jobs(results, protocol, seeds, names)
    if missing:
        click.echo(f"{len(missing)} jobs, each of up to {max(map(job_bytes, missing)) >> 20} MiB of memory")
    failures = run_jobs(missing, jobs)
    for job, reason in failures:
        click.echo(f"failed: {job.task_dir.name}, seed {job.seed}: {reason}", err=True)
    click.echo(f"{len(missing) - len(failures)} of {len(missing)} jobs done")
    sys.exit(bool(failures))


@main.command(short_help="List the commands that predict would run.")
@RESULTS
@PROTOCOL
@SEEDS
@TASK
def plan(results: Path, protocol: str, seeds: list[int], names: tuple[str, ...]) -> None:
    """List the commands of the jobs that `predict` would run, one per line, for the array jobs of a cluster."""
    for job in list_jobs(results, protocol, seeds, names):
        click.echo(shlex.join(job.command))


@main.command(short_help="Do one job of a plan.")
@click.argument("task_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("protocol", type=click.Choice(list(PROTOCOLS)))
@click.argument("seed", type=int)
def job(task_dir: Path, protocol: str, seed: int) -> None:
    """Do one job of `plan`."""
    do_job(Job(task_dir, protocol, seed))


MODELS = click.argument("results", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))


def _read(results: tuple[Path, ...], protocol: str) -> dict[str, dict[str, scoring.Score]]:
    models = {path.resolve().name: scoring.read_scores(path, protocol) for path in results}
    if len(models) < len(results):
        raise HearMwmaeError("two of these folders have one name: models are told apart by it")
    if empty := [name for name, found in models.items() if not found]:
        raise HearMwmaeError(f"no results under protocol {protocol} in {', '.join(empty)}")
    return models


@main.command(short_help="Print a table of scores.")
@MODELS
@PROTOCOL
@click.option(
    "--csv", "csv_path", type=click.Path(dir_okay=False, path_type=Path), help="Also write the means and intervals, of one model."
)
def scores(results: tuple[Path, ...], protocol: str, csv_path: Path | None) -> None:
    """Print a Markdown table of the models in RESULTS..., with 95 % intervals over seeds, beside the paper's rows."""
    models = _read(results, protocol)
    click.echo(scoring.markdown(models, protocol))
    if csv_path:
        if len(models) != 1:
            raise HearMwmaeError("--csv is for the scores of one model")
        (found,) = models.values()
        scoring.write_csv(found, protocol, csv_path)


@main.command(short_help="Write a page about models.")
@MODELS
@PROTOCOL
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The .html to write.")
def report(results: tuple[Path, ...], protocol: str, output: Path) -> None:
    """Write one page about the models in RESULTS...: scores beside the paper's, bars, comparisons, how it was done.

    The table of scores goes beside it, as .md and as .table.csv.
    """
    if output.suffix != ".html":
        raise HearMwmaeError(f"the page must end in .html, got {output}")
    models = _read(results, protocol)
    write_text(output, reporting.page(models, protocol, reporting.circumstances(results, protocol)))
    write_text(output.with_suffix(".md"), scoring.markdown(models, protocol) + "\n")
    table = output.with_suffix(".table.csv")  # not .csv, which may be the scores that `gate` compares with
    write_text(table, scoring.table_csv(models, protocol))
    click.echo(f"report -> {output}, {output.with_suffix('.md').name}, {table.name}")


@main.command(short_help="Fail where a score falls below a stored one.")
@RESULTS
@PROTOCOL
@click.option(
    "--min", "minimum", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), help="CSV of `scores --csv`."
)
def gate(results: Path, protocol: str, minimum: Path) -> None:
    """Exit with 1 when a score falls below a stored one by more than chance: for continuous integration.

    Chance is the 95 % interval of the stored scores over their seeds, or, with one seed, that of the number of tested clips.
    """
    (found,) = _read((results,), protocol).values()
    problems = scoring.below(found, protocol, minimum)
    for problem in problems:
        click.echo(problem, err=True)
    click.echo("below the stored scores" if problems else "no score is below the stored ones")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
