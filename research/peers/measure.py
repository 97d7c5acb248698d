"""Measures an encoder on tasks: right and wrong answers of the probes, speed, memory.

Results are kept in one JSON file for each encoder, and are scored when they are shown: a kept task
is a character for each tested clip, "1" if a probe was right.
"""

import hashlib
import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from hear_mwmae.audio import read_audio
from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.files import read_json, write_text
from hear_mwmae.probe import Classifier, Score, read_tasks, right_answers
from hear_mwmae.tasks import SAMPLE_RATE, Task, read_task

from ..benchmarks.machine import describe
from .encoders import Encoder

CLASSIFIERS: tuple[Classifier, ...] = ("logistic", "ridge")


@dataclass(frozen=True)
class TaskResult:
    """What an encoder did on a task."""

    fingerprint: str  #: of the labels and the audio
    seconds: float  #: of audio
    cpu_seconds: float  #: of embedding it
    peak_memory: float  #: of the process that embedded it, in MB
    correct: dict[Classifier, list[str]]  #: for each tested split

    def score(self, classifier: Classifier, seed: int) -> Score:
        """Accuracy, on the same draws of the clips for all encoders with the same ``seed``."""
        correct = [np.array(list(marks)) == "1" for marks in self.correct[classifier]]
        return Score.of(correct, seed)


@dataclass(frozen=True)
class Result:
    """An encoder and its results, by the names of the tasks."""

    encoder: Encoder
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


def tasks_by_name(paths: tuple[Path, ...]) -> dict[str, Task]:
    """The tasks to probe. HearMwmaeError if two have the same name."""
    tasks: dict[str, Task] = {}
    for task in read_tasks(paths):
        if task.name in tasks:
            raise HearMwmaeError(f"{task.folder} and {tasks[task.name].folder} have the same name")
        tasks[task.name] = task
    return tasks


def fingerprint(task: Task) -> str:
    """The SHA-256 of labels and audio."""
    total = hashlib.sha256()
    for name, split in zip(task.metadata.splits, task.splits, strict=True):
        for path, labels in split.items():
            total.update(json.dumps([name, path.name, labels]).encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def stored(folder: Path, encoder: Encoder, prints: dict[str, str]) -> Result | None:
    """The results that a folder has of an encoder; None if it lacks one of these tasks.

    Args:
        prints: fingerprints of the tasks by name.
    """
    file = folder / f"{encoder.key}.json"
    if not file.exists():
        return None
    values = read_json(file)
    results = values.pop("tasks")
    if any(results.get(name, {}).get("fingerprint") != found for name, found in prints.items()):
        return None
    return Result(encoder, **values, tasks={name: TaskResult(**results[name]) for name in prints})


def measure(encoder: Encoder, tasks: dict[str, Task], prints: dict[str, str], folder: Path) -> None:
    """Measure an encoder on the tasks, whose fingerprints are ``prints``, and write its file."""
    file, version = folder / f"{encoder.key}.json", encoder.version()
    kept = read_json(file) if file.exists() else {}
    results = kept["tasks"] if kept.get("version") == version else {}
    for name, task in tasks.items():
        if results.get(name, {}).get("fingerprint") == prints[name]:
            continue
        # A fresh process, so that its memory is that of this encoder. It never fits a probe.
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            embedded, costs, about = process.submit(embed_task, encoder, task.folder).result()
        results[name] = {"fingerprint": prints[name], **costs, "correct": answers(task, embedded)}
        values = {"version": version, **about, "tasks": results}
        write_text(file, json.dumps(values, indent=1) + "\n")


def answers(task: Task, embedded: list[np.ndarray]) -> dict[Classifier, list[str]]:
    """The right and wrong answers of both classifiers, for each tested split."""
    correct = {}
    with threadpool_limits(1):
        for classifier in CLASSIFIERS:
            rights = right_answers(task, embedded, classifier)
            correct[classifier] = ["".join(map(str, right.astype(int))) for right in rights]
    return correct


def embed_task(encoder: Encoder, folder: Path) -> tuple[list[np.ndarray], dict, dict]:
    """Embed the clips of a task, one at a time, by one thread of a process of its own.

    Returns the embeddings of the splits, the costs of a `TaskResult`, and what a `Result` says of
    the encoder.
    """
    torch.set_num_threads(1)
    embed, parameters = encoder.load()
    threadpool_limits(1)
    embed(np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE).astype(np.float32))  # warms up
    samples, cpu_seconds, embedded = 0, 0.0, []
    for split in read_task(folder).splits:
        vectors = []
        for path in split:
            clip = read_audio(path, SAMPLE_RATE).numpy()
            start = time.process_time()
            vectors.append(np.asarray(embed(clip), np.float32))
            cpu_seconds += time.process_time() - start
            samples += len(clip)
        embedded.append(np.stack(vectors))
    costs = {
        "seconds": round(samples / SAMPLE_RATE, 2),
        "cpu_seconds": round(cpu_seconds, 6),
        "peak_memory": peak_memory(),
    }
    numbers = embedded[0].shape[1]
    return embedded, costs, {"numbers": numbers, "parameters": parameters, "machine": describe()}


def peak_memory() -> float:
    """Of this process, in MB.

    From Linux, not from getrusage: there a process begins with the peak of the one that started it.
    """
    status = Path("/proc/self/status").read_text()
    (kilobytes,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return round(int(kilobytes) / 1024, 0)
