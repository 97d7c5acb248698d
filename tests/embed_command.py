"""Runs `hear-mwmae embed` and reads what it writes."""

import csv
import json
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
            return {name: file[name] for name in file.files if name != "provenance"}
    if output.suffix == ".csv":
        with open(output, newline="") as stream:
            header, *lines = csv.reader(stream)
        cells = dict(zip(header, np.array(lines).T, strict=True))
        columns = {name: cells[name] for name in header if not name.startswith("embedding_")}
        for name in {"seconds", "timestamp"} & columns.keys():
            columns[name] = columns[name].astype(float)
        numbers = [cells[name] for name in header if name.startswith("embedding_")]
        return columns | {"embedding": np.array(numbers, "f4").T}
    table = pyarrow.dataset.dataset(output).to_table() if output.is_dir() else pq.read_table(output)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    return columns | {"embedding": np.stack(columns["embedding"])}


def provenance(output: Path) -> dict[str, str]:
    """What a table of any kind says about what made it."""
    if output.suffix == ".npz":
        return json.loads(str(np.load(output)["provenance"]))
    if output.suffix == ".csv":
        return json.loads(output.with_name(f"{output.name}.json").read_text())
    file = next(output.glob("part-*")) if output.is_dir() else output
    return json.loads(pq.read_schema(file).metadata[b"hear_mwmae"])
