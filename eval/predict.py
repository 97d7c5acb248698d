"""Predictions: one process and one file per task, protocol and seed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import torch

from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.files import one_at_a_time, read_json, write_text

from .kit import predict_task
from .provenance import provenance
from .results import ABOUT, Result, embedded_tasks


def missing_results(
    results: Path, protocol: str, seeds: Iterable[int], names: tuple[str, ...] = ()
) -> list[Result]:
    """What is not computed yet, for all or the named embedded tasks of a model."""
    folders = embedded_tasks(results, names)
    wanted = [Result(folder, protocol, seed) for seed in sorted(set(seeds)) for folder in folders]
    return [result for result in wanted if not result.is_done()]


def predict_all(missing: list[Result], jobs: int) -> Iterator[tuple[Result, str]]:
    """Compute results, ``jobs`` processes at a time; yields each when it ends, with the reason of
    its failure or "".

    The output of a failed process is kept in its log. A killed process does not stop the others.
    """
    # Processes are forked from one that has imported the kit, which takes seconds.
    processes = get_context("forkserver")
    processes.set_forkserver_preload([__name__, "heareval.predictions.task_predictions"])

    def run(result: Result) -> str:
        process = processes.Process(target=_compute_logged, args=(result,))
        process.start()
        process.join()
        if not process.exitcode:
            return ""
        if process.exitcode < 0:
            return f"killed by signal {-process.exitcode} (see {result.log})"
        said = result.log.read_text().strip().splitlines() if result.log.is_file() else []
        return f"{said[-1] if said else 'no output'} (see {result.log})"

    with ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(run, result): result for result in missing}
        for done in as_completed(running):
            yield running[done], done.result()


def _compute_logged(result: Result) -> None:
    """:func:`compute` in a separate process, with its output in the log."""
    result.log.parent.mkdir(parents=True, exist_ok=True)
    with open(result.log, "w") as log:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log.fileno(), stream.fileno())
    try:
        compute(result)
    except HearMwmaeError as error:
        sys.exit(f"Error: {error}")


def compute(result: Result) -> None:
    """Compute a result in this process, and write it atomically. An existing one is kept.

    Raises HearMwmaeError if it cannot be computed, or if another process is computing it.
    """
    result = replace(result, task_dir=result.task_dir.resolve())  # the directory will change
    result.file.parent.mkdir(parents=True, exist_ok=True)
    lock = result.file.with_name(f".{result.file.stem}.lock")
    with one_at_a_time(lock, f"another process is computing {result}"):
        if not result.is_done():
            _compute(result)
    result.log.unlink(missing_ok=True)


def _compute(result: Result) -> None:
    torch.set_num_threads(1)  # processes run side by side, and threads change the last digits
    began = time.monotonic()
    # A separate folder: the kit writes its logs, checkpoints and predictions beside links to the
    # embeddings.
    folder = result.file.with_name(f".{result.file.stem}")
    shutil.rmtree(folder, ignore_errors=True)  # left by a killed process
    folder.mkdir()
    try:
        for file in result.embeddings.iterdir():
            (folder / file.name).symlink_to(file)
        with contextlib.chdir(folder):
            scores = predict_task(folder, result.protocol, result.seed)
    finally:
        shutil.rmtree(folder)
    scores.pop("embedding_path")  # that folder
    content = {
        "task": result.task_dir.name,
        "protocol": result.protocol,
        "seed": result.seed,
        "scores": scores,
        "embeddings": read_json(result.embeddings / ABOUT)["made"],
        "seconds": round(time.monotonic() - began, 1),
        **provenance(),
    }
    write_text(result.file, json.dumps(content, indent=1) + "\n")
