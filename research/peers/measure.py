"""Measures an encoder on tasks: right and wrong answers of the probes, speed, memory.

Results are kept in one JSON file for each encoder, and are scored when they are shown: a kept task
is a character for each tested clip, "1" if a probe was right.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.files import read_json, write_text
from hear_mwmae.probe import (
    Classifier,
    EmbeddedSplit,
    Predictions,
    Score,
    embed_splits,
    predict_embedded,
    score,
)
from hear_mwmae.tasks import SAMPLE_RATE, Task, find_tasks, read_task

from ..benchmarks.machine import describe
from .encoders import Encoder

CLASSIFIERS: tuple[Classifier, ...] = ("logistic", "ridge")


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """What an encoder did on a task."""

    fingerprint: str  #: of the labels and the audio
    seconds: float  #: of audio
    cpu_seconds: float  #: of embedding it
    peak_memory: float  #: of the process that embedded it, in MB
    correct: dict[Classifier, list[str]]  #: for each tested split

    def score(self, classifier: Classifier, seed: int) -> Score:
        """Accuracy, on the same draws of the clips for all encoders with the same ``seed``."""
        splits = []
        for marks in self.correct[classifier]:
            right = np.full(len(marks), "1")
            splits.append(Predictions(right, np.array(list(marks))))
        return score(splits, seed)


@dataclasses.dataclass(frozen=True)
class Result:
    """An encoder and its results, by the names of the tasks."""

    kind: type[Encoder]
    version: str
    numbers: int
    parameters: int
    machine: str
    tasks: dict[str, TaskResult]

    @property
    def speed(self) -> float:
        """Seconds of audio for each second of a CPU."""
        tasks = self.tasks.values()
        return sum(task.seconds for task in tasks) / sum(task.cpu_seconds for task in tasks)

    @property
    def peak_memory(self) -> float:
        """In MB."""
        return max(task.peak_memory for task in self.tasks.values())


def read_tasks(paths: tuple[Path, ...]) -> dict[str, Task]:
    """The tasks by name.

    HearMwmaeError for tasks without exactly one label per clip, and for equal names.
    """
    tasks: dict[str, Task] = {}
    for folder in find_tasks(paths):
        task = read_task(folder)
        if task.multilabel:
            raise HearMwmaeError(f"{folder}: its clips have several labels, compared is accuracy")
        if task.name in tasks:
            raise HearMwmaeError(f"{folder} and {tasks[task.name].folder} have the same name")
        tasks[task.name] = task
    return tasks


def fingerprint(task: Task) -> str:
    """The SHA-256 of labels and audio."""
    total = hashlib.sha256()
    for name, split in zip(task.split_names, task.splits, strict=True):
        for path, labels in split.items():
            total.update(json.dumps([name, path.name, labels]).encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def stored(folder: Path, kind: type[Encoder]) -> Result | None:
    """All results that a folder has of an encoder; None if it has none."""
    file = folder / f"{kind.key}.json"
    if not file.exists():
        return None
    values = read_json(file)
    tasks = {name: TaskResult(**one) for name, one in values.pop("tasks").items()}
    return Result(kind, **values, tasks=tasks)


def kept(folder: Path, kind: type[Encoder], prints: dict[str, str]) -> Result | None:
    """The results that a folder has of an encoder on the very tasks; None if it has none.

    Args:
        prints: fingerprints of the tasks by name.
    """
    result = stored(folder, kind)
    if result is None:
        return None
    tasks = {name: one for name, one in result.tasks.items() if one.fingerprint == prints.get(name)}
    return dataclasses.replace(result, tasks=tasks) if tasks else None


def measure(
    kind: type[Encoder],
    tasks: dict[str, Task],
    prints: dict[str, str],
    folder: Path,
    say: Callable[[str], object],
) -> None:
    """Measure an encoder on the tasks that ``folder`` has no results for.

    Args:
        prints: fingerprints of the tasks.
        say: is told what is measured, or which package is missing.
    """
    if missing := kind.missing():
        say(f"{kind.title}: not measured, {' and '.join(missing)} missing: {kind.install}")
        return
    # A fresh process, so that its memory is that of this encoder. It never fits a probe.
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        for name, task in tasks.items():
            before = stored(folder, kind)
            results = before.tasks if before and before.version == kind.version() else {}
            if name in results and results[name].fingerprint == prints[name]:
                continue
            done = process.submit(embed_task, kind, task.folder).result()
            one = probed(task, prints[name], done)
            write_result(folder, kind, done, results | {name: one})
            values = ", ".join(f"{way} {one.score(way, 0).value:.1f}" for way in CLASSIFIERS)
            say(f"{kind.title}, {name}: {values}, {one.seconds / one.cpu_seconds:.0f} s per CPU s")


def write_result(
    folder: Path, kind: type[Encoder], done: Done, tasks: dict[str, TaskResult]
) -> None:
    """Write the file of an encoder."""
    values = {
        "version": kind.version(),
        "numbers": done.numbers,
        "parameters": done.parameters,
        "machine": done.machine,
        "tasks": {name: dataclasses.asdict(one) for name, one in tasks.items()},
    }
    write_text(folder / f"{kind.key}.json", json.dumps(values, indent=1) + "\n")


class Done(NamedTuple):
    """What a process returns that has embedded a task."""

    splits: list[EmbeddedSplit]
    seconds: float
    cpu_seconds: float
    peak_memory: float
    numbers: int
    parameters: int
    machine: str


def probed(task: Task, print_: str, done: Done) -> TaskResult:
    """The results of both classifiers."""
    correct = {}
    with threadpool_limits(1):
        for classifier in CLASSIFIERS:
            predicted = predict_embedded(task, done.splits, classifier)
            rights = [split.truth == split.predicted for split in predicted]
            correct[classifier] = ["".join(map(str, right.astype(int))) for right in rights]
    return TaskResult(
        print_, round(done.seconds, 2), round(done.cpu_seconds, 6), done.peak_memory, correct
    )


class Timed:
    """An encoder as a model to probe, which embeds a clip at a time; its time and its audio."""

    sample_rate = SAMPLE_RATE

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.cpu_seconds = 0.0
        self.samples = 0

    def embed(self, clips: list[torch.Tensor], **_: Any) -> torch.Tensor:
        vectors = []
        for clip in clips:
            waveform = clip.numpy()
            start = time.process_time()
            vectors.append(torch.from_numpy(np.asarray(self.encoder.embed(waveform), np.float32)))
            self.cpu_seconds += time.process_time() - start
            self.samples += len(waveform)
        return torch.stack(vectors)


@cache
def load(kind: type[Encoder]) -> Encoder:
    """The encoder of a process, warmed up, with one thread."""
    torch.set_num_threads(1)
    encoder = kind()
    threadpool_limits(1)
    encoder.embed(np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE).astype(np.float32))
    return encoder


def embed_task(kind: type[Encoder], folder: Path) -> Done:
    """Embed the clips of a task; in a process of its own."""
    encoder = load(kind)
    timed = Timed(encoder)
    task = read_task(folder, audio=False)
    splits = embed_splits(task, timed, title=f"{kind.title}, {task.name}")
    return Done(
        splits,
        timed.samples / SAMPLE_RATE,
        timed.cpu_seconds,
        peak_memory(),
        splits[0].embeddings.shape[1],
        encoder.parameters,
        machine(),
    )


@cache
def machine() -> str:
    """The machine of this process."""
    return describe()


def peak_memory() -> float:
    """Of this process, in MB.

    From Linux, not from getrusage: there a process begins with the peak of the one that started it.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return round(int(line.split()[1]) / 1024, 0)
    raise HearMwmaeError("this system does not tell the peak memory of a process")
