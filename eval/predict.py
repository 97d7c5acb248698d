"""Predictions: one process and one file per task, protocol and seed."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch

from hear_mwmae.files import read_json, write_text

from .kit import predict_task
from .results import ABOUT, Result, embedded_tasks, provenance


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

    The output of a failed process is kept in its log. A killed process ends all of them.
    """
    # Processes are forked from one that has imported the kit, which takes seconds.
    processes = get_context("forkserver")
    processes.set_forkserver_preload([__name__, "heareval.predictions.task_predictions"])
    with ProcessPoolExecutor(jobs, processes, max_tasks_per_child=1) as pool:
        running = {pool.submit(_compute_logged, result): result for result in missing}
        for done in as_completed(running):
            result, error = running[done], done.exception()
            see = f" (see {result.log})" if result.log.is_file() else ""
            yield result, f"{error}{see}" if error else ""


def _compute_logged(result: Result) -> None:
    """:func:`compute` in a separate process, with its output in the log."""
    result.log.parent.mkdir(parents=True, exist_ok=True)
    with open(result.log, "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        compute(result)
    except Exception as error:
        traceback.print_exc()
        # Of any exception, because not all can travel between processes.
        raise RuntimeError(f"{type(error).__name__}: {error}") from None
    result.log.unlink(missing_ok=True)


def compute(result: Result) -> None:
    """Compute a result in this process, and write it atomically."""
    torch.set_num_threads(1)  # processes run side by side, and threads change the last digits
    # A separate folder: the kit writes its logs, checkpoints and predictions beside links to the
    # embeddings.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in result.embeddings.iterdir():
            (folder / file.name).symlink_to(file.resolve())
        with contextlib.chdir(folder):
            scores = predict_task(folder, result.protocol, result.seed)
    scores.pop("embedding_path")  # that folder
    content = {
        "scores": scores,
        "embeddings": read_json(result.embeddings / ABOUT)["made"],
        **provenance(),
    }
    write_text(result.file, json.dumps(content, indent=1) + "\n")
