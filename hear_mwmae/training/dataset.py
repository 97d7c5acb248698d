"""The clips of a data set that `hear-mwmae pack` made: a folder, or a repository of the Hub."""

import hashlib
import io
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import soundfile
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..audio import to_pcm
from ..config import FrontendConfig
from ..errors import HearMwmaeError, reason
from ..hub import parse_name

#: Hz of packed audio.
SAMPLE_RATE = FrontendConfig().sample_rate
#: Columns that reading needs; `pack` says what else there is.
NEEDED = ("audio", "kind", "samples")


class AudioDataset(Dataset[Tensor]):
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
        self.samples = arrow_column(self.rows, "samples").to_numpy().astype(np.int64)
        kinds = arrow_column(self.rows, "kind").cast(pa.string())
        kinds = kinds.dictionary_encode().combine_chunks()
        self.kinds: list[str] = kinds.dictionary.to_pylist()
        self.kind_of: np.ndarray = kinds.indices.to_numpy()

    def __len__(self) -> int:
        return len(self.samples)

    def identity(self) -> str:
        """SHA-256 over each clip's length in samples, its kind, and the size of its audio in bytes.

        Audio of other content or coding has other sizes, so no audio is read.
        """
        audio = pc.struct_field(arrow_column(self.rows, "audio"), "bytes")
        sizes = pc.binary_length(audio).to_numpy()
        digest = hashlib.sha256(repr(self.kinds).encode())
        for values in (self.samples, self.kind_of, sizes):
            digest.update(np.ascontiguousarray(values, np.int64).data)
        return digest.hexdigest()

    def __getitem__(self, number: int) -> Tensor:
        """The samples of clip ``number``, (samples,) int16.

        HearMwmaeError if it cannot be decoded, or is not as long as its row says.
        """
        clip = self._audio[int(number)]["audio"]
        where = f"{self.source}: clip {number} ({clip['path']})"
        try:
            # As float: Opus goes beyond full scale, where libsndfile's 16-bit samples wrap around.
            audio, rate = soundfile.read(io.BytesIO(clip["bytes"]), dtype="float32")
        except soundfile.SoundFileError as error:
            raise HearMwmaeError(f"{where} cannot be read: {reason(error)}") from error
        if audio.shape != (self.samples[number],) or rate != SAMPLE_RATE:
            raise HearMwmaeError(
                f"{where} holds {audio.shape} samples at {rate} Hz, not {self.samples[number]}"
            )
        return torch.from_numpy(to_pcm(audio))


def arrow_column(rows: datasets.Dataset, name: str) -> pa.ChunkedArray:
    """A column, mapped from the disk where it is there."""
    return rows.select_columns(name).with_format("arrow")[name][:]


def _open(source: str) -> datasets.Dataset:
    path = Path(source).expanduser()
    name = parse_name(source)
    if not path.exists() and not name:
        raise HearMwmaeError(f"no folder {source}: `hear-mwmae pack` makes one")
    what = f"{source} cannot be read as a data set"
    try:
        if path.exists():
            rows = datasets.load_from_disk(str(path))
        elif name:
            what = f"no folder {source}, and not to be had from the Hub"
            rows = datasets.load_dataset(name[0], revision=name[1], split="train")
    except (OSError, ValueError, KeyError) as error:
        raise HearMwmaeError(f"{what}: {reason(error)}") from error
    if isinstance(rows, datasets.DatasetDict):
        raise HearMwmaeError(f"{source} holds several splits: give the folder of one")
    return rows
