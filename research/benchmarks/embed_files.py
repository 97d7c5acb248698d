"""Files to a table, beside what the encoder does by itself with the same clips, in one run; and the
memory that it takes.

    python benchmarks/embed_files.py [--clips 600] [--seconds 1] [--dtype bfloat16] [--shards 0]
    [--rounds 3] [--out .npz]

The embedded model, on clips of noise that are written to a temporary folder as 16-bit WAV, or into
so many tar files. The two are run in turn, round after round, so that a change of the machine's
speed meets both; the medians are printed, of the time that passed and of the processor's, which
tells more on a machine that is shared. "encoder" is `scene_embeddings_of_clips` on clips in memory,
64 at a time; "files" is what `hear-mwmae embed CLIPS -o OUT` does once the model is loaded: find
the clips, read them, write parts and put the table together.
"""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import soundfile
import torch

from hear_mwmae import load_model
from hear_mwmae.data.sources import find_inputs
from hear_mwmae.embedder import DTYPES
from hear_mwmae.embedding.run import Output, embed_to

BATCH = 64
#: Clips that the encoder is measured on at most.
SAMPLE = 640


def write_clips(folder: Path, count: int, seconds: float, shards: int) -> None:
    """Noise, 16-bit: files, or tar files of them."""
    random, samples = np.random.default_rng(0), round(seconds * 16000)
    archives = [tarfile.TarFile(folder / f"{number:03d}.tar", "w") for number in range(shards)]
    for number in range(count):
        stream = io.BytesIO()
        soundfile.write(
            stream, random.integers(-(2**14), 2**14, samples).astype(np.int16), 16000, format="WAV"
        )
        if archives:
            member = tarfile.TarInfo(f"{number:07d}.wav")
            member.size = len(stream.getvalue())
            archives[number * shards // count].addfile(member, io.BytesIO(stream.getvalue()))
        else:
            place = folder / f"{number // 1000:04d}"
            place.mkdir(exist_ok=True)
            (place / f"{number:07d}.wav").write_bytes(stream.getvalue())
    for archive in archives:
        archive.close()


class Memory(threading.Thread):
    """Samples the resident memory of this process, in MB, until it is told to end."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[int] = []
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.2):
            self.samples.append(
                int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 1_000_000
            )

    def quarters(self) -> list[int]:
        """The largest of each quarter of the time."""
        return [int(max(part)) for part in np.array_split(self.samples, 4) if len(part)]


def timed(run: Callable[[], object]) -> np.ndarray:
    """Seconds of one call, and of the processor in it."""
    start = np.array([time.perf_counter(), time.process_time()])
    run()
    return np.array([time.perf_counter(), time.process_time()]) - start


@click.command(help=__doc__)
@click.option("--clips", default=600, show_default=True)
@click.option("--seconds", default=1.0, show_default=True)
@click.option("--dtype", type=click.Choice(list(DTYPES)), default="float32", show_default=True)
@click.option(
    "--shards",
    default=0,
    show_default=True,
    help="Tar files that hold the clips; 0: a folder of files.",
)
@click.option("--rounds", default=3, show_default=True)
@click.option(
    "--out",
    default=".npz",
    show_default=True,
    help="Ending of the table; empty: a folder of Parquet files.",
)
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the clips are written for the time.",
)
def main(
    clips: int, seconds: float, dtype: str, shards: int, rounds: int, out: str, folder: Path | None
) -> None:
    model = load_model(dtype=dtype)
    random = torch.Generator().manual_seed(0)
    waveforms = list(torch.rand(min(clips, SAMPLE), round(seconds * 16000), generator=random) - 0.5)

    def encoder() -> None:
        for start in range(0, len(waveforms), BATCH):
            model.scene_embeddings_of_clips(waveforms[start : start + BATCH])

    with tempfile.TemporaryDirectory(dir=folder) as place:
        write_clips(Path(place), clips, seconds, shards)
        sources = [str(path) for path in sorted(Path(place).iterdir())]
        target = Path(place) / f"table{out}"

        def files() -> None:
            outcome = embed_to(
                Output(target), model, find_inputs(sources), timestamps=False, progress=False
            )
            assert outcome.clips == clips, outcome
            shutil.rmtree(target) if target.is_dir() else target.unlink()

        encoder()  # warms up
        by_encoder, by_files = [], []
        before = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 1_000_000
        memory = Memory()
        for _ in range(rounds):
            by_encoder.append(timed(encoder) / len(waveforms))
            if not by_files:
                memory.start()
            by_files.append(timed(files) / clips)
            memory.ended.set()
    print(
        f"{clips} clips of {seconds:g} s, {dtype}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    for name, values in (("encoder", by_encoder), ("files", by_files)):
        passed, processor = np.median(values, axis=0)
        print(
            f"{name:8}{1 / passed:8.1f} clips/s{seconds / passed:8.1f} s/s{1 / processor:8.1f} clips per processor second"
        )
    passed, processor = np.median(np.array(by_encoder) / np.array(by_files), axis=0)
    print(f"files to encoder: {passed:.3f} of its rate, {processor:.3f} by the processor's time")
    print(
        f"memory: {before} MB with the model, then by quarters of the first round at most {memory.quarters()}"
    )


if __name__ == "__main__":
    main()
