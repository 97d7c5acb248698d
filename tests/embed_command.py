"""Runs `hear-mwmae embed` and reads what it writes."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq
from click.testing import CliRunner, Result

from hear_mwmae.cli import main

TESTS = Path(__file__).parent

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS.parent)}


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["embed", "--quiet", *map(str, args)])


def read(output: Path) -> dict[str, np.ndarray]:
    """The columns of a table of any kind."""
    if output.suffix == ".npz":
        with np.load(output) as file:
            return dict(file)
    if output.suffix in (".npy", ".csv"):
        with open(output.with_suffix(".csv"), newline="") as stream:
            header, *lines = csv.reader(stream)
        columns = {"path": np.array([line[0] for line in lines])}
        if "timestamp" in header:
            columns["timestamp"] = np.array([line[1] for line in lines], np.float32)
        first = len(columns)
        numbers = np.load(output) if output.suffix == ".npy" else np.array([line[first:] for line in lines], np.float32)
        return columns | {"embedding": numbers}
    table = pyarrow.dataset.dataset(output).to_table() if output.is_dir() else pq.read_table(output)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    return columns | {"embedding": np.stack(columns["embedding"])}
