"""Many audio files -> one table of embeddings: what `hear-mwmae embed` runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor
from tqdm import tqdm

from .audio import read_audio
from .embedder import Embedder
from .errors import HearMwmaeError
from .files import replacing

#: Audio that is read before it is embedded together, so that short clips fill the encoder's batches.
GROUP_SECONDS = 120.0
OUTPUT_SUFFIXES = (".npz", ".parquet")


@dataclass
class Embedded:
    """One file: (D,) scene embedding, or (T, D) timestamp embeddings with (T,) milliseconds."""

    path: str
    embedding: np.ndarray
    timestamps: np.ndarray | None = None


def embed_files(
    model: Embedder, files: Sequence[Path], timestamps: bool, failures: list[str], progress: bool = True
) -> Iterator[Embedded]:
    """Embed files in their order; one that cannot be read adds a line to ``failures`` and is passed over."""
    bar = tqdm(files, desc="embed", unit="file", disable=not progress)
    for group in _groups(model, bar, failures):
        if timestamps:
            for path, clip in group:
                embedding, times = model.timestamp_embeddings(clip[None])
                yield Embedded(str(path), embedding[0].cpu().numpy(), times[0].cpu().numpy())
        else:
            scenes = model.scene_embeddings_of_clips([clip for _, clip in group]).cpu().numpy()
            for (path, _), scene in zip(group, scenes, strict=True):
                yield Embedded(str(path), scene)


def write_table(output: Path, rows: Sequence[Embedded]) -> None:
    """Write .npz or .parquet atomically.

    Scenes: ``path`` and ``embedding``, a row per file. Timestamps: ``path``, ``timestamp`` (ms) and ``embedding``, a row per
    time step.
    """
    if output.suffix not in OUTPUT_SUFFIXES:
        raise HearMwmaeError(f"output must end in {' or '.join(OUTPUT_SUFFIXES)}, got {output}")
    if not rows:
        raise HearMwmaeError(f"nothing to write to {output}: no file could be embedded")
    if rows[0].timestamps is not None:
        columns = {
            "path": np.repeat([row.path for row in rows], [len(row.timestamps) for row in rows]),
            "timestamp": np.concatenate([row.timestamps for row in rows]),
            "embedding": np.concatenate([row.embedding for row in rows]),
        }
    else:
        columns = {
            "path": np.array([row.path for row in rows], dtype=str),
            "embedding": np.stack([row.embedding for row in rows]),
        }
    try:
        with replacing(output) as temporary, open(temporary, "wb") as stream:
            if output.suffix == ".npz":
                np.savez(stream, **columns)
            else:
                _write_parquet(stream, columns)
    except OSError as error:
        raise HearMwmaeError(f"cannot write {output}: {error.strerror or error}") from error


def _groups(model: Embedder, files: tqdm, failures: list[str]) -> Iterator[list[tuple[Path, Tensor]]]:
    group, seconds = [], 0.0
    for path in files:
        try:
            clip = read_audio(path, model.sample_rate)
            model.check_audio(clip[None])
        except ValueError as error:
            message = str(error)
            failures.append(message if str(path) in message else f"{path}: {message}")
            continue
        group.append((path, clip))
        seconds += len(clip) / model.sample_rate
        if seconds >= GROUP_SECONDS:
            yield group
            group, seconds = [], 0.0
    if group:
        yield group


def _write_parquet(stream: object, columns: dict[str, np.ndarray]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    embedding = columns["embedding"]
    values = pa.array(embedding.reshape(-1))
    arrays = {name: pa.array(value) for name, value in columns.items() if name != "embedding"}
    arrays["embedding"] = pa.FixedSizeListArray.from_arrays(values, embedding.shape[1])
    pq.write_table(pa.table(arrays), stream)
