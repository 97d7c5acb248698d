"""Predictions: one process and one file per task, protocol and seed; the memory limits the number
of processes.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import torch

from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.files import one_at_a_time, read_json, write_text
from hear_mwmae.probing.tasks import TaskFolder

from .kit import PROTOCOLS, predict_task
from .machine import available_memory, describe_machine, versions
from .results import ABOUT, Prediction, embedded_tasks

#: Memory of a process without its embeddings: torch, pytorch-lightning and their libraries.
PROCESS_BYTES = 1 << 30


def missing_predictions(results: Path, protocol: str, seeds: Iterable[int], names: tuple[str, ...] = ()) -> list[Prediction]:
    """Predictions without a result, for all or the named embedded tasks of a model."""
    folders = embedded_tasks(results, names)
    wanted = [Prediction(folder, protocol, seed) for seed in sorted(set(seeds)) for folder in folders]
    return [prediction for prediction in wanted if not prediction.is_done()]


def predict_all(missing: list[Prediction], jobs: int) -> list[tuple[Prediction, str]]:
    """Compute predictions, ``jobs`` processes at a time within the available memory; returns
    failures with reasons.

    The output of a failed process is kept in its log. A killed process does not stop the others.
    """
    gpus = _visible_gpus()
    # Processes are forked from one that has imported the kit, which takes seconds.
    processes = get_context("forkserver")
    processes.set_forkserver_preload([__name__, "heareval.predictions.task_predictions"])

    def run(numbered: tuple[int, Prediction]) -> tuple[Prediction, str] | None:
        number, prediction = numbered
        process = processes.Process(target=_compute_logged, args=(prediction, gpus[number % len(gpus)] if gpus else None))
        process.start()
        process.join()
        if not process.exitcode:
            return None
        said = prediction.log.read_text().strip().splitlines() if prediction.log.is_file() else []
        reason = f"killed by signal {-process.exitcode}" if process.exitcode < 0 else said[-1] if said else "no output"
        return prediction, f"{reason} (see {prediction.log})"

    with ThreadPoolExecutor(max(1, min(jobs, fitting(missing)))) as pool:
        return [failed for failed in pool.map(run, enumerate(missing)) if failed]


def _visible_gpus() -> list[str]:
    """The GPUs that a scheduler assigned to this process, by its names for them, or all GPUs."""
    if not torch.cuda.is_available():
        return []
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",") if given else [str(number) for number in range(torch.cuda.device_count())]


def _compute_logged(prediction: Prediction, gpu: str | None) -> None:
    """:func:`compute` in a separate process, with its output in the log."""
    prediction.log.parent.mkdir(parents=True, exist_ok=True)
    with open(prediction.log, "w") as log:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log.fileno(), stream.fileno())
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    try:
        compute(prediction)
    except HearMwmaeError as error:
        sys.exit(f"Error: {error}")


def memory_needed(prediction: Prediction) -> int:
    """Largest memory of a process in bytes, without the frame labels of events.

    The kit keeps one copy of the embeddings per point of its grid and per fold until the end.
    """
    size = sum(file.stat().st_size for file in prediction.embeddings.glob("*.embeddings.npy"))
    return PROCESS_BYTES + (PROTOCOLS[prediction.protocol][0] + len(TaskFolder(prediction.embeddings).splits)) * size


def fitting(missing: list[Prediction]) -> int:
    """How many of these predictions fit into the available memory at a time."""
    return available_memory() // max(map(memory_needed, missing), default=PROCESS_BYTES)


def compute(prediction: Prediction) -> None:
    """Compute a result in this process, and write it atomically. An existing result is kept.

    Raises HearMwmaeError if it cannot be computed, or if another process is computing it.
    """
    prediction = replace(prediction, task_dir=prediction.task_dir.resolve())  # the working directory is about to change
    prediction.file.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(prediction.file.with_name(f".{prediction.file.stem}.lock"), f"another process is computing {prediction}"):
        if not prediction.is_done():
            _compute(prediction)
    prediction.log.unlink(missing_ok=True)


def _compute(prediction: Prediction) -> None:
    torch.set_num_threads(1)  # processes run side by side, and threads change the last digits
    folder = prediction.file.with_name(f".{prediction.file.stem}")
    before, began = Path.cwd(), time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)  # left by a killed process
    folder.mkdir()
    # A separate folder: the kit writes its logs, checkpoints and predictions beside links to the
    # embeddings.
    for file in prediction.embeddings.iterdir():
        (folder / file.name).symlink_to(file)
    os.chdir(folder)
    try:
        scores = predict_task(folder, prediction.protocol, prediction.seed)
    finally:
        os.chdir(before)
    scores.pop("embedding_path")  # this folder is removed below
    result = {"task": prediction.task_dir.name, "protocol": prediction.protocol, "seed": prediction.seed, "scores": scores}
    result |= {"embeddings": read_json(prediction.embeddings / ABOUT)["embeddings"]}
    result |= {"seconds": round(time.monotonic() - began, 1), "machine": describe_machine(), "versions": versions()}
    write_text(prediction.file, json.dumps(result, indent=1) + "\n")
    shutil.rmtree(folder)
