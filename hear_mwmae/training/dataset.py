"""The clips of a data set that `hear-mwmae pack` made: a folder, or a repository of the Hub."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import soundfile
import torch
from torch import Tensor

from ..config import FrontendConfig
from ..errors import HearMwmaeError, reason
from ..pcm import to_pcm

#: Hz of packed audio.
SAMPLE_RATE = FrontendConfig().sample_rate
#: Columns that reading needs; `pack` says what else there is.
NEEDED = ("audio", "kind", "samples")

_HUB_ID = re.compile(r"(?P<name>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")


class BadClip(Exception):
    """A clip that cannot be decoded, or is not as long as its row says."""


class AudioDataset:
    """Clips of 16 kHz audio with random access, from an Arrow file in the page cache.

    Args:
        source: a folder that `hear-mwmae pack` made, or ``org/name[@revision]`` on the Hugging
            Face Hub, whose split "train" is downloaded.

    Attributes:
        rows: the `datasets.Dataset`.
        samples: (clips,) int64, length of each clip.
        kinds: names of the kinds.
        kind_of: (clips,) int32, the place of each clip's kind in ``kinds``.

    Raises HearMwmaeError when there is no such data set, or it lacks a column.
    """

    def __init__(self, source: str | Path) -> None:
        self.source = str(source)
        self.rows = _open(self.source)
        if absent := [name for name in NEEDED if name not in self.rows.column_names]:
            raise HearMwmaeError(
                f"{source} has no column {', '.join(absent)}: it was not made by `hear-mwmae pack`"
            )
        if not len(self.rows):
            raise HearMwmaeError(f"{source} holds no clips")
        audio = self.rows.select_columns("audio")
        self._audio = audio.cast_column("audio", datasets.Audio(decode=False))
        self.samples = self._column("samples").to_numpy().astype(np.int64)
        kinds = self._column("kind").cast(pa.string()).dictionary_encode().combine_chunks()
        self.kinds: list[str] = kinds.dictionary.to_pylist()
        self.kind_of: np.ndarray = kinds.indices.to_numpy()

    def __len__(self) -> int:
        return len(self.samples)

    def identity(self) -> str:
        """SHA-256 over each clip's length in samples, its kind, and the size of its audio in bytes.

        Audio of other content or coding has other sizes, so no audio is read.
        """
        sizes = pc.binary_length(pc.struct_field(self._column("audio"), "bytes")).to_numpy()
        digest = hashlib.sha256(repr(self.kinds).encode())
        for values in (self.samples, self.kind_of, sizes):
            digest.update(np.ascontiguousarray(values, np.int64).data)
        return digest.hexdigest()

    def read(self, number: int) -> Tensor:
        """The samples of clip ``number``, (samples,) int16. Raises BadClip."""
        content = self._audio[int(number)]["audio"]["bytes"]
        try:
            # As float: Opus goes beyond full scale, where libsndfile's 16-bit samples wrap around.
            audio, rate = soundfile.read(io.BytesIO(content), dtype="float32")
        except soundfile.SoundFileError as error:
            raise BadClip(reason(error)) from error
        if audio.shape != (self.samples[number],) or rate != SAMPLE_RATE:
            raise BadClip(f"{audio.shape} samples at {rate} Hz in place of {self.samples[number]}")
        return torch.from_numpy(to_pcm(audio))

    def _column(self, name: str) -> pa.ChunkedArray:
        return self.rows.select_columns(name).with_format("arrow")[name][:]


def _open(source: str) -> datasets.Dataset:
    path = Path(source).expanduser()
    if path.exists():
        return _open_folder(path)
    name = _HUB_ID.fullmatch(source)
    if name is None or (path.parent != Path() and path.parent.is_dir()):
        raise HearMwmaeError(f"no folder {source}: `hear-mwmae pack` makes one")
    try:
        return datasets.load_dataset(name["name"], revision=name["revision"], split="train")
    except (OSError, ValueError) as error:  # those of datasets, huggingface_hub and httpx are
        said = f"no folder {source}, and not to be had from the Hub: {reason(error)}"
        raise HearMwmaeError(said) from error


def _open_folder(path: Path) -> datasets.Dataset:
    try:
        rows = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise HearMwmaeError(
            f"{path} is no data set of `hear-mwmae pack`, or damaged: {reason(error)}"
        ) from error
    if isinstance(rows, datasets.DatasetDict):
        raise HearMwmaeError(f"{path} holds several splits: give the folder of one")
    return rows
