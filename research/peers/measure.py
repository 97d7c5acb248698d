"""Measures an encoder on tasks: right and wrong answers of the probes, speed, memory.

An encoder has one JSON file of results, which are scored when they are shown: a tested split is a
text with a character for each clip, "1" if the probe was right.
"""

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel
from threadpoolctl import threadpool_limits

from hear_mwmae.audio import read_audio
from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.probe import Classifier, Score, read_tasks, right_answers
from hear_mwmae.tasks import SAMPLE_RATE, Task, read_task

from ..benchmarks.machine import describe
from .encoders import Encoder

CLASSIFIERS: tuple[Classifier, ...] = ("logistic", "ridge")


class Answers(BaseModel):
    """The right and wrong answers of the probes of a task."""

    labels: int
    correct: dict[Classifier, list[str]]  #: for each tested split

    def score(self, classifier: Classifier, seed: int) -> Score:
        """Accuracy, on the same draws of the clips for all encoders with the same ``seed``."""
        correct = [np.array(list(marks)) == "1" for marks in self.correct[classifier]]
        return Score.of(correct, seed)


class Result(BaseModel):
    """What was measured of an encoder, which embedded the clips one at a time, by one thread."""

    version: str
    machine: str
    numbers: int  #: in an embedding
    parameters: int
    seconds: float  #: of audio
    cpu_seconds: float
    peak_memory: float  #: of the process, in MB
    tasks: dict[str, Answers]


def tasks_by_name(paths: tuple[Path, ...]) -> dict[str, Task]:
    """The tasks to probe. HearMwmaeError if two have the same name."""
    tasks: dict[str, Task] = {}
    for task in read_tasks(paths):
        name = task.metadata.task_name or task.name
        if name in tasks:
            raise HearMwmaeError(f"{task.folder} and {tasks[name].folder} have the same name")
        tasks[name] = task
    return tasks


def measure(encoder: Encoder, tasks: dict[str, Task]) -> Result:
    """All tasks, by a fresh process, so that its memory is that of this encoder.

    ImportError if its package is missing.
    """
    version = encoder.version
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        folders = [task.folder for task in tasks.values()]
        embedded, costs = process.submit(embed_tasks, encoder, folders).result()
    answers = {}
    for (name, task), splits in zip(tasks.items(), embedded, strict=True):
        answers[name] = Answers(labels=len(task.labels), correct=probe(task, splits))
    return Result(version=version, tasks=answers, **costs)


def probe(task: Task, embedded: list[np.ndarray]) -> dict[Classifier, list[str]]:
    """The answers of both classifiers, for each tested split."""
    correct = {}
    with threadpool_limits(1):
        for classifier in CLASSIFIERS:
            rights = right_answers(task, embedded, classifier)
            correct[classifier] = ["".join(map(str, right.astype(int))) for right in rights]
    return correct


def embed_tasks(encoder: Encoder, folders: list[Path]) -> tuple[list[list[np.ndarray]], dict]:
    """The embeddings of every split of every task, in a process of its own, and what a `Result`
    says about that.
    """
    torch.set_num_threads(1)
    embed, parameters = encoder.load()
    threadpool_limits(1)
    noise = np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE).astype(np.float32)
    numbers = len(embed(noise))  # warms up, too
    samples, cpu_seconds, tasks = 0, 0.0, []
    for folder in folders:
        tasks.append([])
        for split in read_task(folder).splits:
            vectors = []
            for path in split:
                clip = read_audio(path, SAMPLE_RATE).numpy()
                start = time.process_time()
                vectors.append(np.asarray(embed(clip), np.float32))
                cpu_seconds += time.process_time() - start
                samples += len(clip)
            tasks[-1].append(np.stack(vectors))
    return tasks, {
        "machine": describe(),
        "numbers": numbers,
        "parameters": parameters,
        "seconds": round(samples / SAMPLE_RATE, 2),
        "cpu_seconds": round(cpu_seconds, 6),
        "peak_memory": peak_memory(),
    }


def peak_memory() -> float:
    """Of this process, in MB.

    From Linux, not from getrusage: there a process begins with the peak of the one that started it.
    """
    status = Path("/proc/self/status").read_text()
    (kilobytes,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return round(int(kilobytes) / 1024, 0)
