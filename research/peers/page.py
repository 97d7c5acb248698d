"""The tables of the comparison, as Markdown."""

from pathlib import Path

from tabulate import tabulate

from hear_mwmae.files import write_text
from hear_mwmae.probe import Classifier, mean
from hear_mwmae.tasks import Task

from .measure import CLASSIFIERS, Result

BEGIN = "<!-- written by python -m research.peers, from here -->"
END = "<!-- to here -->"
#: Title of the column of means.
MEAN = "mean"

Row = dict[str, str]


def title(task: Task) -> str:
    return task.metadata.task_name or task.name


def accuracy_table(
    results: list[Result], tasks: dict[str, Task], classifier: Classifier
) -> list[Row]:
    """Accuracy with intervals, the best of every column in bold, and the differences of the means
    from the first encoder; on the same draws of the clips.
    """
    rows = []
    for result in results:
        row = {}
        for seed, (name, task) in enumerate(tasks.items()):
            row[title(task)] = result.tasks[name].score(classifier, seed)
        rows.append(row | {MEAN: mean(list(row.values()))})
    best = {column: max(row[column].value for row in rows) for column in rows[0]}
    table = []
    for result, row in zip(results, rows, strict=True):
        line = {"embedding": result.encoder.title}
        for column, score in row.items():
            line[column] = f"**{score}**" if score.value == best[column] else str(score)
        difference = str(row[MEAN] - rows[0][MEAN]) if row is not rows[0] else ""
        table.append(line | {f"mean, minus {results[0].encoder.title}": difference})
    return table


def encoder_table(results: list[Result]) -> list[Row]:
    """Size, speed and memory."""
    return [
        {
            "embedding": result.encoder.title,
            "what it is": result.encoder.about,
            "numbers": f"{result.numbers:,}",
            "parameters": f"{result.parameters:,}",
            "seconds of audio per CPU second": f"{result.speed:.0f}",
            "peak memory (MB)": f"{result.peak_memory:.0f}",
        }
        for result in results
    ]


def licence_table(results: list[Result]) -> list[Row]:
    """Licences, versions, and how to install the packages."""
    return [
        {
            "embedding": result.encoder.title,
            "measured": result.version,
            "licence of the code": result.encoder.code_licence,
            "of the weights": result.encoder.weights_licence,
            "installed by": f"`{result.encoder.install}`",
        }
        for result in results
    ]


def task_table(tasks: dict[str, Task]) -> list[Row]:
    """Clips and labels of the tasks."""
    return [
        {
            "task": title(task),
            "clips": f"{sum(map(len, task.splits)):,}",
            "labels": str(len(task.labels)),
            "tested splits": str(len(task.tested)),
        }
        for task in tasks.values()
    ]


def markdown(rows: list[Row]) -> str:
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def all_tables(results: list[Result], tasks: dict[str, Task]) -> str:
    parts = [markdown(task_table(tasks))]
    for classifier in CLASSIFIERS:
        parts.append(f"### Accuracy, {classifier}")
        parts.append(markdown(accuracy_table(results, tasks, classifier)))
    parts.append("### Size, speed, memory")
    parts.append(markdown(encoder_table(results)))
    parts.append(f"Measured on: {'; '.join(sorted({result.machine for result in results}))}.")
    parts.append("### Licences and versions")
    parts.append(markdown(licence_table(results)))
    return "\n\n".join(parts)


def replace_tables(page: Path, tables: str) -> None:
    """Replace what stands between the two marks of a page."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    write_text(page, f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}")
