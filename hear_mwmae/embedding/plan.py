"""What a run has to do: inputs compared with the parts that exist, and cut into new parts."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..data.sources import Item
from .encode import labels_of
from .parts import Part, rewrite_part

#: Files that are embedded together: at most so many, and about so many bytes.
GROUP_FILES, GROUP_BYTES = 256, 64 << 20


class Kept(NamedTuple):
    """An input that is embedded: its place among the inputs of a part."""

    item: Item
    part: Part
    place: int


class Plan(NamedTuple):
    """Result of `compare`."""

    kept: list[Kept]  #: in the order of the inputs
    todo: list[Item]
    summary: str


def compare(items: Sequence[Item], parts: Sequence[Part]) -> Plan:
    """Which inputs are in ``parts`` already, by path, size and time.

    Files that failed before come last in ``todo``: so the parts of a resumed run are those of a run
    without an interruption.
    """
    stored: defaultdict[tuple, deque[list[tuple[Part, int]]]] = defaultdict(deque)
    pieces: dict[tuple, list[tuple[Part, int]]] = {}
    for part in parts:
        for place, done in enumerate(part.inputs):
            key = done.item.identity
            before = pieces.get(key, []) if done.piece else []
            pieces[key] = [*before, (part, place)]
            if done.last and len(before) == done.piece:  # a kill may leave some pieces of a shard
                stored[key].append(pieces[key])
    kept, todo = [], []
    for item in items:
        if copies := stored[item.identity]:
            kept += [Kept(item, part, place) for part, place in copies.popleft()]
        else:
            todo.append(item)
    left = Counter(url for (url, *_), copies in stored.items() for _ in copies)
    changed = (left & Counter(item.url for item in todo)).total()
    failed = {failure.url for part in parts for failure in part.failures}
    todo.sort(key=lambda item: item.url in failed)
    summary = (
        f"{len(todo) - changed} new, {changed} changed, {left.total() - changed} gone, "
        f"{len(items) - len(todo)} kept"
    )
    return Plan(kept, todo, summary)


def cut(items: Sequence[Item]) -> list[list[Item]]:
    """Inputs that are embedded together: files by number and bytes, a shard alone."""
    groups: list[list[Item]] = []
    left = 0
    for item in items:
        if not groups or item.is_shard or left <= 0 or len(groups[-1]) == GROUP_FILES:
            groups.append([])
            left = GROUP_BYTES
        groups[-1].append(item)
        left = 0 if item.is_shard else left - item.size
    return groups


def refresh(parts: Sequence[Part], inputs: Sequence[Kept]) -> None:
    """Drop all but ``inputs`` from the parts, and bring names and labels up to date.

    All parts then have the same columns.
    """
    kept: dict[Path, dict[int, Item]] = {part.file: {} for part in parts}
    for item, part, place in inputs:
        kept[part.file][place] = item
    labels: dict[str, None] = {}
    for part in parts:
        for item in kept[part.file].values():
            labels |= dict.fromkeys(part.labels if item.is_shard else labels_of(item.about))
    for part in parts:
        now = kept[part.file]
        before = {place: done.item for place, done in enumerate(part.inputs)}
        if not now:
            part.file.unlink()
        elif now != before or part.labels != list(labels):
            rewrite_part(part, now, list(labels))


def read_table(parts: Sequence[Part], kept: Sequence[Kept]) -> pa.Table:
    """The rows of all parts, in the order of the inputs ``kept``."""
    table = pa.concat_tables([pq.read_table(part.file).replace_schema_metadata() for part in parts])
    rows: dict[tuple[Path, int], range] = {}
    start = 0
    for part in parts:
        for place, done in enumerate(part.inputs):
            rows[part.file, place] = range(start, start + done.rows)
            start += done.rows
    order = [row for _, part, place in kept for row in rows[part.file, place]]
    return table if order == list(range(start)) else table.take(order)
