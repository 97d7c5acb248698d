"""The tables of the comparison, as Markdown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tabulate import tabulate

from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.files import write_text
from hear_mwmae.probe import Classifier, Score, mean
from hear_mwmae.tasks import Task

from .measure import CLASSIFIERS, Result

BEGIN = "<!-- written by python -m research.peers, from here -->"
END = "<!-- to here -->"
#: Title of the column of means.
MEAN = "mean"


def title(task: Task) -> str:
    return str(task.metadata.get("task_name", task.name))


def scores_of(
    results: list[Result], tasks: dict[str, Task], classifier: Classifier
) -> list[dict[str, Score]]:
    """For every encoder its score on every task that it was measured on, and their mean if these
    are all.

    All are scored on the same draws of the clips.
    """
    rows = []
    for result in results:
        row = {}
        for seed, (name, task) in enumerate(tasks.items()):
            if name in result.tasks:
                row[title(task)] = result.tasks[name].score(classifier, seed)
        if len(row) == len(tasks):
            row[MEAN] = mean(list(row.values()))
        rows.append(row)
    return rows


def cells(
    rows: list[dict[str, Score]], tasks: dict[str, Task], text: Callable[[Score], str]
) -> list[dict[str, str]]:
    """The texts of the scores, the best of every column in bold."""
    texts: list[dict[str, str]] = [{} for _ in rows]
    for column in [*map(title, tasks.values()), MEAN]:
        values = [row[column].value for row in rows if column in row]
        for row, line in zip(rows, texts, strict=True):
            line[column] = text(row[column]) if column in row else ""
            if column in row and row[column].value == max(values):
                line[column] = f"**{line[column]}**"
    return texts


def accuracy_table(
    results: list[Result], tasks: dict[str, Task], classifier: Classifier
) -> list[dict[str, str]]:
    """Accuracy with intervals, and the differences of the means from the first encoder."""
    rows = scores_of(results, tasks, classifier)
    table = []
    for result, row, line in zip(results, rows, cells(rows, tasks, str), strict=True):
        compared = row is not rows[0] and MEAN in row and MEAN in rows[0]
        difference = str(row[MEAN] - rows[0][MEAN]) if compared else ""
        column = f"mean, minus {results[0].kind.title}"
        table.append({"embedding": result.kind.title, **line, column: difference})
    return table


def short_table(results: list[Result], tasks: dict[str, Task]) -> list[dict[str, str]]:
    """Accuracy by logistic regression, without intervals, and speed."""
    rows = scores_of(results, tasks, "logistic")
    table = []
    for result, line in zip(results, cells(rows, tasks, "{0.value:.1f}".format), strict=True):
        numbers = f"{result.numbers:,}"
        speed = f"{result.speed:.0f}"
        table.append({"embedding": result.kind.title, "numbers": numbers, **line, "speed": speed})
    return table


def encoder_table(results: list[Result]) -> list[dict[str, str]]:
    """Size, speed and memory."""
    return [
        {
            "embedding": result.kind.title,
            "what it is": result.kind.about,
            "numbers": f"{result.numbers:,}",
            "parameters": f"{result.parameters:,}",
            "seconds of audio per CPU second": f"{result.speed:.0f}",
            "peak memory (MB)": f"{result.peak_memory:.0f}",
        }
        for result in results
    ]


def licence_table(results: list[Result]) -> list[dict[str, str]]:
    """Licences, versions, and how to install the packages."""
    return [
        {
            "embedding": result.kind.title,
            "measured": result.version,
            "licence of the code": result.kind.code_licence,
            "of the weights": result.kind.weights_licence,
            "installed by": f"`{result.kind.install}`",
        }
        for result in results
    ]


def task_table(tasks: dict[str, Task]) -> list[dict[str, Any]]:
    """Clips and labels of the tasks."""
    return [
        {
            "task": title(task),
            "clips": f"{sum(map(len, task.splits)):,}",
            "labels": len(task.labels),
            "tested splits": len(task.tested),
        }
        for task in tasks.values()
    ]


def markdown(rows: list[dict[str, Any]]) -> str:
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
    """Replace what stands between the two marks of a page.

    HearMwmaeError if it lacks one.
    """
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise HearMwmaeError(f"{page} lacks the marks {BEGIN} and {END}")
    write_text(page, f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}")
