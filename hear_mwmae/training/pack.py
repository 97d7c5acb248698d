"""Audio from anywhere -> a Hugging Face data set of clips of at most ten seconds at 16 kHz."""

import csv
import io
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import soundfile
import torch
from datasets import Audio, Dataset, Features, Value
from datasets.exceptions import DatasetGenerationError

from ..audio import to_pcm
from ..data.sources import Item, find_inputs, read_item
from ..errors import HearMwmaeError
from ..files import one_at_a_time, printable
from .dataset import SAMPLE_RATE, arrow_column

#: Codec -> libsndfile's container and coding.
CODECS = {"flac": ("FLAC", "PCM_16"), "opus": ("OGG", "OPUS")}
#: Recordings are cut into clips of this length, as in AudioSet. Normalization is per clip.
CLIP_SECONDS = 10.0
#: The rest at the end of a cut recording is dropped when shorter than this.
MIN_REST_SECONDS = 1.0
#: Clips that are written together: some 15 MB.
CLIPS_AT_ONCE = 100
#: What a process makes of a clip, or of what cannot be packed (``problem``). ``labels`` are the
#: other columns as JSON, because only together do all clips say which ones there are.
FEATURES = {
    "audio": {"bytes": Value("binary"), "path": Value("string")},
    "kind": Value("string"),
    "path": Value("string"),
    "start": Value("float64"),
    "samples": Value("int64"),
    "labels": Value("string"),
    "problem": Value("string"),
}
SKIPPED = "skipped.csv"


@dataclass(frozen=True)
class Packed:
    """Counts of a data set, and its hours of audio."""

    clips: int
    hours: float
    skipped: int


def pack(
    sources: Sequence[str], out: Path, codec: str = "flac", kind: str = "audio", jobs: int = 1
) -> Packed:
    """Pack the inputs that `sources.find_inputs` finds into the new folder ``out``.

    The folder is one of `datasets.load_from_disk`, with a row per clip: audio (bytes and path),
    kind, path, start in seconds, samples, and the labels of the input. What cannot be packed is
    listed in its skipped.csv. It appears at the end, so an interrupted command leaves none.

    Raises HearMwmaeError when ``out`` exists, a source is missing, or nothing can be packed.
    """
    found = find_inputs(sources, kind)
    found.check()
    out.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(out.with_name(f".{out.name}.lock"), f"another process is packing {out}"):
        if out.exists():
            raise HearMwmaeError(f"{out} exists: give another folder, or remove it")
        work = out.with_name(f".{out.name}.tmp")  # a killed process may have left one
        shutil.rmtree(work, ignore_errors=True)
        try:
            rows = _generate(found.items, codec, jobs, work / "cache")
            packed = _save(rows, work / "data")
            (work / "data").rename(out)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return packed


def _generate(items: list[Item], codec: str, jobs: int, cache: Path) -> Dataset:
    """Rows of `FEATURES` in the order of the items, for any number of processes."""
    try:
        return Dataset.from_generator(
            packed_rows,
            features=Features(FEATURES),
            cache_dir=str(cache),
            gen_kwargs={"items": items, "codec": codec},
            num_proc=min(jobs, len(items)) if jobs > 1 else None,
            fingerprint="pack",  # the cache is new, so nothing is to be told apart
            writer_batch_size=CLIPS_AT_ONCE,
        )
    except DatasetGenerationError as error:
        raise HearMwmaeError(f"packing failed: {error.__cause__ or error}") from error


def packed_rows(items: list[Item], codec: str) -> Iterator[dict]:
    """The clips of ``items`` as rows of `FEATURES`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # each process uses one core, and a forked one has no pool of threads
    try:
        for item in items:
            yield from _rows_of(item, codec)
    finally:
        torch.set_num_threads(threads)


def _rows_of(item: Item, codec: str) -> Iterator[dict]:
    try:
        for recording in read_item(item, SAMPLE_RATE):
            if recording.waveform is None:
                yield _problem(recording.name, recording.problem)
                continue
            labels = {
                printable(name): printable(value) if isinstance(value, str) else value
                for name, value in recording.about.items()
            }
            path = str(labels["path"])
            for start, clip in _clips(recording.waveform.numpy()):
                seconds = start / SAMPLE_RATE
                pcm = to_pcm(clip)
                if not np.ptp(pcm):
                    yield _problem(recording.name, f"silence from second {seconds:g} on")
                    continue
                yield {
                    "audio": {
                        "bytes": _encode(pcm, codec),
                        "path": f"{Path(path).stem}-{seconds:g}.{codec}",
                    },
                    "kind": str(labels["kind"]),
                    "path": path,
                    "start": seconds,
                    "samples": len(pcm),
                    "labels": json.dumps(labels),
                    "problem": None,
                }
    except HearMwmaeError as error:  # a server that fails does not stop the others
        yield _problem(item.url, str(error))


def _problem(name: str, reason: str) -> dict:
    return dict.fromkeys(FEATURES) | {"path": printable(name), "problem": printable(reason)}


def _clips(waveform: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(first sample, samples within full scale) of every clip of a recording.

    A clip beyond full scale is scaled to it: the features of a clip do not depend on its level.
    """
    size = int(CLIP_SECONDS * SAMPLE_RATE)
    least = int(MIN_REST_SECONDS * SAMPLE_RATE)
    for start in range(0, len(waveform), size):
        clip = waveform[start : start + size]
        if start and len(clip) < least:
            return
        yield start, clip / max(np.abs(clip).max(), 1.0)


def _encode(pcm: np.ndarray, codec: str) -> bytes:
    stream = io.BytesIO()
    container, coding = CODECS[codec]
    soundfile.write(stream, pcm, SAMPLE_RATE, format=container, subtype=coding)
    return stream.getvalue()


def _save(rows: Dataset, folder: Path) -> Packed:
    """Write the clips among ``rows`` to ``folder``, labels as columns, and the list of the rest."""
    good = pc.is_null(arrow_column(rows, "problem")).to_numpy()
    skipped = rows.select_columns(["path", "problem"]).select(np.flatnonzero(~good))
    listed = [(row["path"], row["problem"]) for row in skipped]
    if not good.any():
        reasons = "; ".join(" ".join(row) for row in listed[:3])
        raise HearMwmaeError(f"nothing could be packed: {reasons}")
    clips = _with_labels(rows.remove_columns("problem"))
    clips = clips.cast_column("audio", Audio(sampling_rate=SAMPLE_RATE, decode=False))
    if listed:
        clips = clips.select(np.flatnonzero(good))
    clips.save_to_disk(str(folder))
    if listed:
        with open(folder / SKIPPED, "w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("source", "reason"), *listed])
    samples = pc.sum(arrow_column(clips, "samples")).as_py()
    return Packed(len(clips), samples / SAMPLE_RATE / 3600, len(listed))


def _with_labels(rows: Dataset) -> Dataset:
    """A column for each label that the input has given, in place of the JSON; null without it.

    Values of several types become text.
    """
    texts = arrow_column(rows, "labels").to_pylist()
    labels = [json.loads(text) if text else {} for text in texts]
    rows = rows.remove_columns("labels")
    for name in dict.fromkeys(name for label in labels for name in label):
        if name in rows.column_names:
            continue
        values = [label.get(name) for label in labels]
        try:
            rows = rows.add_column(name, values)
        except (ValueError, TypeError):
            rows = rows.add_column(name, [_as_text(value) for value in values])
    return rows


def _as_text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)
