"""Predictions: every (task, protocol, seed) a job of its own process and one file, RESULTS/NAME/TASK/PROTOCOL/seed-N.json."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from .embed import ABOUT, EMBEDDINGS

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
        """Does this job and no other, as an array job of a cluster may."""
        return [sys.executable, "-m", "eval", "job", str(self.task_dir), self.protocol, str(self.seed)]


def list_jobs(results: Path, protocol: str, seeds: Iterable[int], names: tuple[str, ...] = ()) -> list[Job]:
    """Jobs without a result yet, for the embedded tasks of a model, all or those of these names."""
    folders = sorted(path.parent.parent for path in results.glob(f"*/{EMBEDDINGS}/{ABOUT}"))
    if names:
        if missing := sorted(set(names) - {folder.name for folder in folders}):
            raise ValueError(f"{results} has no embeddings of {', '.join(missing)}")
        folders = [folder for folder in folders if folder.name in names]
    if not folders:
        raise ValueError(f"{results} holds no embeddings: see `python -m eval embed --help`")
    jobs = [Job(folder, protocol, seed) for seed in seeds for folder in folders]
    return [job for job in jobs if not job.result.is_file()]


def run_jobs(jobs: list[Job], at_once: int) -> list[tuple[Job, str]]:
    """Run jobs, ``at_once`` at a time within the memory there is; returns those that failed, with the ends of what they said."""
    failures = []

    def run(job: Job) -> None:
        done = subprocess.run(job.command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if done.returncode:
            failures.append((job, done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no word"))

    with ThreadPoolExecutor(max(1, min(at_once, fitting(jobs)))) as pool:
        list(pool.map(run, jobs))
    return failures


def fitting(jobs: list[Job]) -> int:
    """How many of these jobs the free memory holds at a time: the kit reads all embeddings of a task."""
    largest = max(
        (sum(f.stat().st_size for f in (job.task_dir / EMBEDDINGS).glob("*.embeddings.npy")) for job in jobs), default=0
    )
    if "SC_AVPHYS_PAGES" not in os.sysconf_names:  # macOS
        return len(jobs)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(free // (JOB_BYTES + 2 * largest))


def machine() -> str:
    """Processor and number of cores."""
    cpuinfo = Path("/proc/cpuinfo")  # Linux has it, and platform.processor() is empty there
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def versions() -> dict[str, str]:
    """Of what computes a result."""
    return {name: metadata.version(name) for name in ("heareval", "torch", "pytorch-lightning", "numpy", "scikit-learn")}


def do_job(job: Job) -> None:
    """Compute a result in this process, and write it atomically. Where it is there already, nothing is done."""
    from .kit import predict_task

    if job.result.is_file():
        return
    job = replace(job, task_dir=job.task_dir.resolve())  # the working directory is about to change
    embeddings = job.task_dir / EMBEDDINGS
    job.result.parent.mkdir(parents=True, exist_ok=True)
    before, began = Path.cwd(), time.monotonic()
    with tempfile.TemporaryDirectory(dir=job.result.parent, prefix=".job-") as folder:
        # A folder of the job's own, where the kit leaves its logs, checkpoints and predictions beside links to the embeddings.
        for file in embeddings.iterdir():
            (Path(folder) / file.name).symlink_to(file)
        os.chdir(folder)
        try:
            scores = predict_task(Path(folder), job.protocol, job.seed)
        finally:
            os.chdir(before)
        scores.pop("embedding_path")  # of a folder that is about to go
        result = {"task": job.task_dir.name, "protocol": job.protocol, "seed": job.seed, "scores": scores}
        result |= {"seconds": round(time.monotonic() - began, 1), "machine": machine(), "versions": versions()}
        temporary = Path(folder) / "result.json"
        temporary.write_text(json.dumps(result, indent=1) + "\n")
        temporary.replace(job.result)
