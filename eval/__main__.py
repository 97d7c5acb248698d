"""`python -m eval`, in a checkout: HEAR tasks with HEAR's evaluation kit, from embeddings to a
table.
"""

from __future__ import annotations

import json
import shlex
import sys
import traceback
from pathlib import Path

import click

from hear_mwmae.cli.options import Group, jobs_option, out_option
from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.extras import needs
from hear_mwmae.files import write_text
from hear_mwmae.probing.tasks import TaskFolder

try:
    from . import fetch, gate, predict, report, scores
    from .embed import Model, check_complete, disk_needed, hours_of, is_embedded, join_group, memory_needed, write_embeddings
    from .kit import PROTOCOLS
    from .results import Prediction
    from .tasks import find_tasks, problems_of, registry
except ModuleNotFoundError as error:
    sys.exit(f"Error: {needs('the evaluation', error.name, 'eval')}")

RESULTS = click.argument("results", type=click.Path(file_okay=False, path_type=Path))
TASKS_DIR = click.argument("tasks_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
TASK = click.option("--task", "names", multiple=True, metavar="FOLDER", help="Only this task. Repeatable.")
PROTOCOL = click.option(
    "--protocol", type=click.Choice(list(PROTOCOLS)), default="paper", show_default=True, help="Grid of predictors."
)


class Seeds(click.ParamType):
    """0-9, or 3, or 0,4,7."""

    name = "seeds"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        try:
            seeds: list[int] = []
            for part in str(value).split(","):
                first, _, last = part.partition("-")
                seeds += range(int(first), int(last or first) + 1)
            if not seeds:
                raise ValueError
            return seeds
        except ValueError:
            self.fail(f"{value!r} is not like 0-9 or 0,4,7", param, ctx)


SEEDS = click.option("--seeds", type=Seeds(), default="0-9", show_default=True, help="Of predictors, such as 0-9 or 0,4,7.")


@click.group(cls=Group, context_settings={"max_content_width": 110})
def main() -> None:
    """Evaluate any HEAR module on HEAR tasks, with heareval.

    \b
    python -m eval tasks                                           list the tasks
    python -m eval fetch TASKS_DIR                                 download them
    python -m eval check TASKS_DIR                                 check that they are complete
    python -m eval embed TASKS_DIR RESULTS/mine --module hear_mwmae
    python -m eval predict RESULTS/mine --protocol paper --seeds 0-9
    python -m eval scores RESULTS/mine RESULTS/other
    python -m eval report RESULTS/mine RESULTS/other -o report.html
    """


@main.command("tasks", short_help="List the tasks and their sources.")
def tasks_command() -> None:
    """List the tasks: ten of the paper, and one with events. eval/tasks.csv has their sources and
    licences.
    """
    for task in registry().values():
        length = f"{task.seconds:g} s" if task.seconds else "0.3 to 30 s"
        click.echo(
            f"{task.key:6} {task.folder:38} {task.metric:22} {task.splits:17} {task.clips:6,} clips of {length:11} {task.licence}"
        )


@main.command("fetch", short_help="Download tasks, resampled to 16 kHz.")
@click.argument("tasks_dir", type=click.Path(file_okay=False, path_type=Path))
@TASK
@click.option("--record", default=fetch.RECORD, show_default=True, help="Zenodo record that lists the files.")
@jobs_option("Processes for resampling.")
@click.option("--keep", is_flag=True, help="Keep the archives and the 48 kHz audio.")
def fetch_command(tasks_dir: Path, names: tuple[str, ...], record: str, jobs: int, keep: bool) -> None:
    """Download all or the given tasks, and resample them to 16 kHz. The command is resumable."""
    known = registry()
    if unknown := sorted(set(names) - known.keys()):
        raise HearMwmaeError(f"no task {', '.join(unknown)}; there are {', '.join(known)}")
    archives, failures = None, 0
    for name in dict.fromkeys(names or known):
        if fetch.is_fetched(known[name], tasks_dir):
            click.echo(f"{name}: already fetched")
            continue
        archives = archives or fetch.read_record(record)
        try:
            fetch.fetch_task(known[name], tasks_dir, archives, jobs, keep)
            click.echo(f"{name}: fetched{_other_count(TaskFolder(tasks_dir / name))}")
        except (HearMwmaeError, OSError) as error:
            failures += 1
            click.echo(f"{name}: not fetched: {error}", err=True)
    sys.exit(bool(failures))


def _other_count(task: TaskFolder) -> str:
    """A note if the task's number of clips differs from HEAR's page. The task's number counts."""
    listed = registry().get(task.path.name)
    return (
        "" if not listed or task.clips == listed.clips else f" ({task.clips:,} clips, where HEAR's page lists {listed.clips:,})"
    )


@main.command("check", short_help="Check task folders.")
@TASKS_DIR
@TASK
@click.option("--sample-rate", default=16000, show_default=True, help="Sample rate of the audio to check.")
def check_command(tasks_dir: Path, names: tuple[str, ...], sample_rate: int) -> None:
    """List complete task folders, and the problems of the others.

    The exit code is 1 if there are problems.
    """
    bad, found = False, find_tasks(tasks_dir, names)
    for task in found:
        problems = problems_of(task, sample_rate)
        bad |= bool(problems)
        click.echo(f"{task.path.name}: {'; '.join(problems) or 'complete' + _other_count(task)}")
    if not names:
        for folder in sorted(registry().keys() - {task.path.name for task in found}):
            begun = (tasks_dir / fetch.WORK / folder).is_dir()
            click.echo(f"{folder}: {'incomplete: `fetch` resumes it' if begun else 'missing'}")
    sys.exit(bad)


@main.command("embed", short_help="Embed tasks with a model.")
@TASKS_DIR
@RESULTS
@click.option("--module", default="hear_mwmae", show_default=True, help="Import name of a HEAR module.")
@click.option("--model", help="Argument of the module's load_model; its default if not given.")
@click.option("--model-options", default="{}", help="JSON, further arguments of load_model.")
@click.option(
    "--batch-size", type=click.IntRange(1), help="Clips at a time, if all have one length; the kit's choice by default."
)
@TASK
def embed_command(
    tasks_dir: Path,
    results: Path,
    module: str,
    model: str | None,
    model_options: str,
    batch_size: int | None,
    names: tuple[str, ...],
) -> None:
    """Embed tasks with a model into the folder RESULTS, which is named after the model.

    Existing embeddings are kept.

    Under torchrun (python -m torch.distributed.run --nproc-per-node 8 -m eval embed ...) the
    processes share the clips of a task. Each process uses one GPU, if the machine has GPUs.
    """
    try:
        options = json.loads(model_options)
    except ValueError as error:
        raise HearMwmaeError(f"--model-options must be JSON: {error}") from error
    if not isinstance(options, dict):
        raise HearMwmaeError(f"--model-options must be a JSON object, got {model_options}")
    found, (rank, world) = find_tasks(tasks_dir, names), join_group()
    hear_model = Model(module, model, options)
    done = failures = 0
    for task in found:
        try:
            if is_embedded(hear_model, task, results):
                continue
            check_complete(hear_model, task)
            if rank == 0:
                hours, disk = hours_of(task, hear_model.embedding.sample_rate), disk_needed(hear_model, task, world)
                memory = memory_needed(hear_model, task)
                what = f"{hours:.2f} h of audio, {disk >> 20} MiB of disk, {memory >> 20} MiB of memory"
                click.echo(f"{task.path.name}: {what} (with one clip at a time; larger batches need more)")
            write_embeddings(hear_model, task, results, batch_size, rank, world)
            done += 1
        except Exception as error:  # a bug in this package or in the module is printed, and does not stop the other tasks
            if world > 1:  # the others wait for this one
                raise
            failures += 1
            what = str(error) if isinstance(error, (HearMwmaeError, OSError)) else f"{task.path}\n{traceback.format_exc()}"
            click.echo(f"not embedded: {what}", err=True)
    if rank == 0:
        click.echo(f"{done} of {done + failures} tasks embedded into {results}, {len(found) - done - failures} already embedded")
    sys.exit(bool(failures))


@main.command("predict", short_help="Train and test predictors on embeddings.")
@RESULTS
@PROTOCOL
@SEEDS
@TASK
@jobs_option("Processes, limited by the available memory.")
def predict_command(results: Path, protocol: str, seeds: list[int], names: tuple[str, ...], jobs: int) -> None:
    """Train and test predictors on the embeddings in RESULTS: one process and one file per task and
    seed.

    Existing results are kept. A failed prediction does not stop the others.
    """
    missing = predict.missing_predictions(results, protocol, seeds, names)
    if missing:
        most = max(map(predict.memory_needed, missing)) >> 20
        click.echo(f"{len(missing)} predictions, each with up to {most} MiB of memory")
    failures = predict.predict_all(missing, jobs)
    for failed, reason in failures:
        click.echo(f"failed: {failed}: {reason}", err=True)
    click.echo(f"{len(missing) - len(failures)} of {len(missing)} predictions done")
    sys.exit(bool(failures))


@main.command("plan", short_help="List the commands that predict would run.")
@RESULTS
@PROTOCOL
@SEEDS
@TASK
def plan_command(results: Path, protocol: str, seeds: list[int], names: tuple[str, ...]) -> None:
    """List the jobs that `predict` would run, one command per line, for a cluster's array jobs."""
    for one in predict.missing_predictions(results, protocol, seeds, names):
        click.echo(shlex.join([sys.executable, "-m", "eval", "job", str(one.task_dir), protocol, str(one.seed)]))


@main.command("job", short_help="Do one job of a plan.")
@click.argument("task_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("protocol", type=click.Choice(list(PROTOCOLS)))
@click.argument("seed", type=int)
def job_command(task_dir: Path, protocol: str, seed: int) -> None:
    """Do one job of `plan`."""
    predict.compute(Prediction(task_dir, protocol, seed))


MODELS = click.argument("results", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))


def _read(results: tuple[Path, ...], protocol: str) -> dict[str, dict[str, scores.Score]]:
    models = {path.resolve().name: scores.read_scores(path, protocol) for path in results}
    if len(models) < len(results):
        raise HearMwmaeError("two of these folders have the same name: models need different names")
    if empty := [name for name, found in models.items() if not found]:
        raise HearMwmaeError(f"no results under protocol {protocol} in {', '.join(empty)}")
    return models


@main.command("scores", short_help="Print a table of scores.")
@MODELS
@PROTOCOL
@click.option(
    "--csv", "csv_path", type=click.Path(dir_okay=False, path_type=Path), help="Also write the scores of one model, for `gate`."
)
def scores_command(results: tuple[Path, ...], protocol: str, csv_path: Path | None) -> None:
    """Print a Markdown table of the models in RESULTS... and of published rows, with 95 % intervals
    over seeds.
    """
    models = _read(results, protocol)
    click.echo(scores.markdown(models, protocol))
    if csv_path:
        if len(models) != 1:
            raise HearMwmaeError("--csv is for the scores of one model")
        (found,) = models.values()
        gate.write_csv(found, protocol, csv_path)


@main.command("report", short_help="Write a page about models.")
@MODELS
@PROTOCOL
@out_option("The .html to write.", folder=False)
def report_command(results: tuple[Path, ...], protocol: str, out: Path) -> None:
    """Write one page about the models in RESULTS...: scores and the paper's scores, bars,
    comparisons, provenance.

    The table of scores is also written as .md and as .table.csv.
    """
    if out.suffix != ".html":
        raise HearMwmaeError(f"the page must end in .html, got {out}")
    models = _read(results, protocol)
    write_text(out, report.page(models, protocol, report.provenance(results, protocol)))
    write_text(out.with_suffix(".md"), scores.markdown(models, protocol) + "\n")
    table = out.with_suffix(".table.csv")  # not .csv, which may hold the stored scores of `gate`
    write_text(table, scores.table_csv(models, protocol))
    click.echo(f"report -> {out}, {out.with_suffix('.md').name}, {table.name}")


@main.command("gate", short_help="Fail where a score falls below a stored one.")
@RESULTS
@PROTOCOL
@click.option(
    "--min", "minimum", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), help="CSV of `scores --csv`."
)
def gate_command(results: Path, protocol: str, minimum: Path) -> None:
    """Exit with 1 if a score falls below a stored one by more than chance: for continuous
    integration.

    Chance is the 95 % interval of the stored scores over their seeds. With one seed, it follows
    from the number of tested clips.
    """
    (found,) = _read((results,), protocol).values()
    problems = gate.below(found, protocol, minimum)
    for problem in problems:
        click.echo(problem, err=True)
    click.echo("below the stored scores" if problems else "no score is below the stored ones")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
