"""Predictions: every (task, protocol, seed) a job of its own process and one file, RESULTS/NAME/TASK/PROTOCOL/seed-N.json."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.files import one_at_a_time, read_json, write_text

from .circumstances import available_memory, machine, versions
from .embed import ABOUT, EMBEDDINGS
from .kit import PROTOCOLS, predict_task
from .tasks import read_metadata

#: Where `python -m eval` finds this.
CHECKOUT = Path(__file__).parent.parent
#: What a job needs beside its embeddings: torch, pytorch-lightning and the libraries they load.
JOB_BYTES = 1 << 30


@dataclass(frozen=True)
class Job:
    """One task of one model, under one protocol and seed."""

    task_dir: Path  #: RESULTS/NAME/TASK
    protocol: str
    seed: int

    @property
    def result(self) -> Path:
        return self.task_dir / self.protocol / f"seed-{self.seed}.json"

    @property
    def command(self) -> list[str]:
        """Does this job and no other, as an array job of a cluster may, in a checkout."""
        return [sys.executable, "-m", "eval", "job", str(self.task_dir), self.protocol, str(self.seed)]


def list_jobs(results: Path, protocol: str, seeds: Iterable[int], names: tuple[str, ...] = ()) -> list[Job]:
    """Jobs without a result yet, for the embedded tasks of a model, all or those of these names."""
    folders = sorted(path.parent.parent for path in results.glob(f"*/{EMBEDDINGS}/{ABOUT}"))
    if names:
        if missing := sorted(set(names) - {folder.name for folder in folders}):
            raise HearMwmaeError(f"{results} has no embeddings of {', '.join(missing)}")
        folders = [folder for folder in folders if folder.name in names]
    if not folders:
        raise HearMwmaeError(f"{results} holds no embeddings: see `python -m eval embed --help`")
    jobs = [Job(folder.resolve(), protocol, seed) for seed in sorted(set(seeds)) for folder in folders]
    return [job for job in jobs if not is_done(job)]


def is_done(job: Job) -> bool:
    """Whether there is a result, and it is of the embeddings that are there."""
    if not job.result.is_file():
        return False
    about = job.task_dir / EMBEDDINGS / ABOUT
    if not about.is_file():  # they are large, and may have been removed
        return True
    result, made = (read_json(file) for file in (job.result, about))
    for file, found in ((job.result, result), (about, made)):
        if not isinstance(found, dict) or "embeddings" not in found:
            raise HearMwmaeError(f"{file} does not say which embeddings it is of: remove it, and compute it again")
    return result["embeddings"] == made["embeddings"]


def run_jobs(jobs: list[Job], at_once: int) -> list[tuple[Job, str]]:
    """Run jobs, ``at_once`` at a time within the memory there is; returns those that failed, and why. What they said is kept."""
    failures = []
    # Those that a scheduler has given to this process, by the names that it has for them.
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = (given.split(",") if given else list(map(str, range(torch.cuda.device_count())))) if torch.cuda.is_available() else []

    def run(numbered: tuple[int, Job]) -> None:
        number, job = numbered
        gpu = {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}
        done = subprocess.run(job.command, capture_output=True, text=True, cwd=CHECKOUT, env=os.environ | gpu)
        if done.returncode:
            said = job.result.with_suffix(".log")
            said.parent.mkdir(parents=True, exist_ok=True)
            said.write_text(done.stdout + done.stderr)
            lines = done.stderr.strip().splitlines()
            reason = f"killed by signal {-done.returncode}" if done.returncode < 0 else lines[-1] if lines else "no word"
            failures.append((job, f"{reason} (see {said})"))

    with ThreadPoolExecutor(max(1, min(at_once, fitting(jobs)))) as pool:
        list(pool.map(run, enumerate(jobs)))
    return failures


def job_bytes(job: Job) -> int:
    """Memory that a job takes at most, but for the labels of every frame of events.

    The kit keeps what it has read for every point of its grid and every fold to the end: at most so many copies.
    """
    embeddings = job.task_dir / EMBEDDINGS
    size = sum(file.stat().st_size for file in embeddings.glob("*.embeddings.npy"))
    return JOB_BYTES + (PROTOCOLS[job.protocol][0] + len(read_metadata(embeddings)["splits"])) * size


def fitting(jobs: list[Job]) -> int:
    """How many of these jobs the available memory holds at a time."""
    available = available_memory()
    return len(jobs) if available is None else available // max(map(job_bytes, jobs), default=JOB_BYTES)


def do_job(job: Job) -> None:
    """Compute a result in this process, and write it atomically; nothing where it is there.

    Raises HearMwmaeError when it cannot be computed, or when another process is at it.
    """
    job = replace(job, task_dir=job.task_dir.resolve())  # the working directory is about to change
    job.result.parent.mkdir(parents=True, exist_ok=True)
    busy = f"another process is at {job.task_dir.name}, {job.protocol}, seed {job.seed}"
    with one_at_a_time(job.result.with_name(f".{job.result.stem}.lock"), busy):
        if not is_done(job):
            _compute(job)


def _compute(job: Job) -> None:
    torch.set_num_threads(1)  # jobs run side by side, and threads change the last digits
    embeddings, folder = job.task_dir / EMBEDDINGS, job.result.with_name(f".{job.result.stem}")
    before, began = Path.cwd(), time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)  # of one that was killed
    folder.mkdir()
    # A folder of the job's own, where the kit leaves its logs, checkpoints and predictions beside links to the embeddings.
    for file in embeddings.iterdir():
        (folder / file.name).symlink_to(file)
    os.chdir(folder)
    try:
        scores = predict_task(folder, job.protocol, job.seed)
    finally:
        os.chdir(before)
    scores.pop("embedding_path")  # of a folder that is about to go
    result = {"task": job.task_dir.name, "protocol": job.protocol, "seed": job.seed, "scores": scores}
    result |= {"embeddings": json.loads((embeddings / ABOUT).read_text())["embeddings"]}
    result |= {"seconds": round(time.monotonic() - began, 1), "machine": machine(), "versions": versions()}
    write_text(job.result, json.dumps(result, indent=1) + "\n")
    shutil.rmtree(folder)
    job.result.with_suffix(".log").unlink(missing_ok=True)
