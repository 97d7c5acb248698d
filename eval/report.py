"""One page about models and their scores, self-contained: no script, no network."""

from __future__ import annotations

import json
from html import escape
from itertools import combinations
from pathlib import Path

from .scores import Score, columns, compare, rows

#: Colours of the models' bars, told apart by people who see colours differently, too (Okabe and Ito's).
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
BAR, GAP, LABEL, WIDTH = 14, 10, 120, 460
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 80rem; padding: 1rem; color: #222; background: #fff }
h1 { font-size: 1.4rem }
h2 { font-size: 1.1rem; margin-top: 2rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
thead th { border-bottom: 2px solid #888 }
tbody tr:nth-child(even) { background: #f4f4f4 }
.key { display: inline-block; width: .8rem; height: .8rem; margin-right: .4rem }
.keys span { margin-right: 1.2rem; white-space: nowrap }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem }
svg { width: 100%; height: auto }
dt { font-weight: 600 }
"""


def circumstances(results: tuple[Path, ...], protocol: str) -> dict[str, str]:
    """How the scores came about: versions and machines named in the results, and the time they took."""
    found = [json.loads(file.read_text()) for path in results for file in path.glob(f"*/{protocol}/seed-*.json")]
    embedded = [json.loads(file.read_text()) for path in results for file in path.glob("*/embeddings/about.json")]
    made = found + embedded
    versions = dict.fromkeys(", ".join(f"{name} {version}" for name, version in one["versions"].items()) for one in made)
    machines = dict.fromkeys(one["machine"] for one in made)
    hours, embedding = sum(about["hours"] for about in embedded), sum(about["seconds"] for about in embedded) / 60
    predicting = sum(result["seconds"] for result in found) / 60
    return {
        "protocol": {"paper": "paper (the authors': one hidden layer of 1024, rate 1e-4)", "hear": "hear (the kit's stock grid)"}[
            protocol
        ],
        "versions": "; ".join(versions),
        "machines": "; ".join(machines),
        "time": f"{embedding:.1f} min for {hours:.2f} h of audio, {predicting:.1f} min for {len(found)} predictions",
    }


def page(models: dict[str, dict[str, Score]], protocol: str, about: dict[str, str]) -> str:
    """The HTML of a report."""
    keys = "".join(
        f'<span><i class="key" style="background:{_colour(n)}"></i>{escape(name)}</span>' for n, name in enumerate(models)
    )
    charts = "".join(chart(head, [scores.get(folder) for scores in models.values()]) for folder, head in columns(models).items())
    parts = [
        "<h1>HEAR scores</h1>",
        f"<p>{escape(', '.join(models))}</p>",
        "<h2>Scores</h2>",
        "<p>In percent, with 95 % intervals over the seeds of the predictors. Other protocols give other scores. s(m) with ≈ is "
        "reconstructed from the paper's tables, and needs all ten tasks.</p>",
        _table(rows(models, protocol)),
        "<h2>Task by task</h2>",
        f'<p class="keys">{keys}</p><div class="charts">{charts}</div>',
        "<h2>Compared</h2>" + comparisons(models) if len(models) > 1 else "",
        "<h2>How</h2>",
        "<dl>" + "".join(f"<dt>{escape(what)}</dt><dd>{escape(value)}</dd>" for what, value in about.items()) + "</dl>",
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>HEAR scores</title><style>{STYLE}</style>"
    )
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def chart(title: str, scores: list[Score | None]) -> str:
    """A bar per model with its interval, an SVG."""
    height = 24 + len(scores) * (BAR + GAP)
    marks = [f'<text x="0" y="14" font-weight="600">{escape(title)}</text>']
    scale = (WIDTH - LABEL) / 100
    for number, score in enumerate(scores):
        y = 24 + number * (BAR + GAP)
        if score is None:
            marks.append(f'<text x="0" y="{y + BAR - 2}">not computed</text>')
            continue
        end = score.mean * scale
        marks.append(f'<rect x="0" y="{y}" width="{end:.1f}" height="{BAR}" style="fill:{_colour(number)}"/>')
        if score.half_width is not None:
            low, high = (max(0, min(100, score.mean + sign * score.half_width)) * scale for sign in (-1, 1))
            marks.append(f'<path d="M{low:.1f} {y + BAR / 2}H{high:.1f}" stroke="#888" stroke-width="3"/>')
        marks.append(f'<text x="{WIDTH - LABEL + 8}" y="{y + BAR - 2}">{escape(str(score))}</text>')
    return f'<svg viewBox="0 0 {WIDTH} {height}" font-size="13" role="img" aria-label="{escape(title)}">{"".join(marks)}</svg>'


def comparisons(models: dict[str, dict[str, Score]]) -> str:
    """Every pair of models: differences, and p of a paired t-test over the seeds."""
    table = []
    for (one, ones), (other, others) in combinations(models.items(), 2):
        row = {"": f"{other} - {one}"}
        for folder, head in columns(models).items():
            if folder in ones and folder in others:
                difference, p = compare(ones[folder], others[folder])
                row[head] = f"{difference:+.1f}" + (f" (p = {p:.2g})" if p is not None else "")
            else:
                row[head] = ""
        table.append(row)
    return (
        "<p>Differences of means over the seeds that both have, with p of a paired t-test over them; no correction for many "
        "tasks.</p>" + _table(table)
    )


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _table(table: list[dict[str, str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row.values()) + "</tr>" for row in table)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
