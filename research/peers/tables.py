"""The tables of the comparison, as Markdown."""

from tabulate import tabulate

from hear_mwmae.probe import Classifier, mean

from .encoders import Encoder
from .measure import CLASSIFIERS, Result

Results = list[tuple[Encoder, Result]]
Row = dict[str, str]


def accuracy_table(results: Results, classifier: Classifier) -> list[Row]:
    """Accuracy with intervals, the best of every column in bold, and the differences of the means
    from the first encoder; on the same draws of the clips.
    """
    rows = []
    for _, result in results:
        tasks = enumerate(result.tasks.items())
        row = {name: answers.score(classifier, seed) for seed, (name, answers) in tasks}
        rows.append(row | {"mean": mean(list(row.values()))})
    best = {column: max(row[column].value for row in rows) for column in rows[0]}
    table = []
    for (encoder, _), row in zip(results, rows, strict=True):
        line = {"embedding": encoder.title}
        for column, score in row.items():
            line[column] = f"**{score}**" if score.value == best[column] else str(score)
        difference = str(row["mean"] - rows[0]["mean"]) if row is not rows[0] else ""
        table.append(line | {f"mean, minus {results[0][0].title}": difference})
    return table


def cost_table(results: Results) -> list[Row]:
    """Size, speed and memory."""
    return [
        {
            "embedding": encoder.title,
            "what it is": encoder.about,
            "numbers": f"{result.numbers:,}",
            "parameters": f"{result.parameters:,}",
            "seconds of audio per CPU second": f"{result.seconds / result.cpu_seconds:.0f}",
            "peak memory (MB)": f"{result.peak_memory:.0f}",
        }
        for encoder, result in results
    ]


def licence_table(results: Results) -> list[Row]:
    """Licences, versions, and how to install the packages."""
    return [
        {
            "embedding": encoder.title,
            "measured": result.version,
            "licence of the code": encoder.code_licence,
            "of the weights": encoder.weights_licence,
            "installed by": f"`{encoder.install}`",
        }
        for encoder, result in results
    ]


def task_table(result: Result) -> list[Row]:
    """Clips and labels of the tasks, which all encoders have in common."""
    rows = []
    for name, answers in result.tasks.items():
        splits = answers.correct[CLASSIFIERS[0]]
        rows.append(
            {
                "task": name,
                "clips": f"{sum(map(len, splits)):,}",
                "labels": str(answers.labels),
                "tested splits": str(len(splits)),
            }
        )
    return rows


def markdown(rows: list[Row]) -> str:
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def all_tables(results: Results) -> str:
    parts = [markdown(task_table(results[0][1]))]
    for classifier in CLASSIFIERS:
        parts.append(f"### Accuracy, {classifier}")
        parts.append(markdown(accuracy_table(results, classifier)))
    parts.append("### Size, speed, memory")
    parts.append(markdown(cost_table(results)))
    parts.append(f"Measured on: {'; '.join(sorted({result.machine for _, result in results}))}.")
    parts.append("### Licences and versions")
    parts.append(markdown(licence_table(results)))
    return "\n\n".join(parts)
