"""A folder of audio with a manifest -> normalised log-mel features on disk -> batches of random crops."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from tqdm import tqdm

from ..config import FrontendConfig
from ..files import replacing
from ..frontend import SILENCE_STD, LogMelFrontend, normalise, reflect_index
from .recipe import Recipe

#: (step, generator of the step) -> indices of the clips in its batch.
Draw = Callable[[int, np.random.Generator], Sequence[int]]
#: Long recordings are cut into clips of this length, that of AudioSet's. Normalisation is per clip.
CLIP_SECONDS = 10.0
#: What remains at the end of a cut recording is dropped when shorter than this.
MIN_REST_SECONDS = 1.0


class FeatureStore:
    """Log-mel features of every clip, float16, memory-mapped: computed once, then read at no cost.

    Lives in ``DIR/features``, beside ``DIR/manifest.csv`` (columns path and kind are used; 16 kHz mono audio).
    Built on first use and again whenever the manifest or the front-end changed, not when a file changed under its name.

    Raises ValueError when there is no manifest, or when it lacks a column, or lists a file that is not such audio.
    """

    def __init__(self, directory: str | Path, config: FrontendConfig) -> None:
        directory = Path(directory)
        folder = directory / "features" / data_key(directory, config)[:16]
        if not (folder / "clips.npy").is_file():
            _build(directory / "manifest.csv", folder, config)
        self.clips = np.load(folder / "clips.npy")  # structured: first frame, frames, kind
        self.frames = np.memmap(folder / "frames.f16", np.float16, "r").reshape(-1, config.n_mels)

    def batches(self, recipe: Recipe, crop_frames: int) -> CropBatches:
        """Random crops as the recipe says."""
        clips = self.clips
        if recipe.data_fraction < 1:
            order = np.random.default_rng(recipe.seed).permutation(len(clips))
            clips = clips[np.sort(order[: max(1, round(recipe.data_fraction * len(clips)))])]
        draw = _by_kind(clips, recipe) if recipe.kinds else _by_epoch(len(clips), recipe)
        return CropBatches(self.frames, clips, draw, crop_frames, recipe.seed)


def data_key(directory: str | Path, config: FrontendConfig) -> str:
    """Hash of the manifest and the front-end, hexadecimal."""
    manifest = Path(directory) / "manifest.csv"
    if not manifest.is_file():
        raise ValueError(f"{directory} has no manifest.csv: see `python -m hear_mwmae.training.debian_audio --help`")
    return hashlib.sha256(manifest.read_bytes() + json.dumps(config.__dict__).encode()).hexdigest()


class CropBatches:
    """``batches[step]`` is the batch of that step, (B, crop_frames, n_mels) float32: a pure function of seed and step.

    So a run resumes at any step without a saved position, and the batch is the same for any number of processes. A clip shorter
    than a crop is extended by repeated reflection, exactly as at inference.
    """

    def __init__(self, frames: np.ndarray, clips: np.ndarray, draw: Draw, crop_frames: int, seed: int) -> None:
        self.frames, self.clips, self.draw, self.crop_frames, self.seed = frames, clips, draw, crop_frames, seed

    def __getitem__(self, step: int) -> Tensor:
        return self.share(step, 0, 1)

    def share(self, step: int, rank: int, world: int) -> Tensor:
        """Every ``world``-th crop of the batch, from the ``rank``-th on; only these are read."""
        rng = np.random.default_rng([self.seed, step])
        clips = [self.clips[pick] for pick in self.draw(step, rng)]
        starts = [int(rng.integers(0, max(int(clip["frames"]) - self.crop_frames, 0) + 1)) for clip in clips]
        return torch.stack([self._crop(clip, start) for clip, start in zip(clips[rank::world], starts[rank::world], strict=True)])

    def _crop(self, clip: np.void, start: int) -> Tensor:
        first, length, size = int(clip["first"]), int(clip["frames"]), self.crop_frames
        frames = torch.from_numpy(self.frames[first + start : first + min(start + size, length)].astype(np.float32))
        return frames if len(frames) == size else frames[reflect_index(len(frames), 0, size)]


def _by_kind(clips: np.ndarray, recipe: Recipe) -> Draw:
    """Draw with replacement, the recipe's share of each kind.

    Within a kind, clips are drawn in proportion to the square root of their length: a ten-second clip offers more crops than a
    drum hit, but not fifty times as much to learn.
    """
    known = set(np.unique(clips["kind"]))
    if unknown := sorted(set(recipe.kinds) - known):
        raise ValueError(f"the manifest has no clips of kind {unknown}; it has {sorted(known)}")
    weights = np.zeros(len(clips))
    for kind, share in recipe.kinds.items():
        chosen = clips["kind"] == kind
        root = np.sqrt(clips["frames"][chosen])
        weights[chosen] = share * root / root.sum()
    cumulative = np.cumsum(weights) / weights.sum()
    return lambda step, rng: np.searchsorted(cumulative, rng.random(recipe.batch_size), side="right")


def _by_epoch(count: int, recipe: Recipe) -> Draw:
    """Every clip once per epoch, in an order of the epoch's own; a batch may span two epochs."""

    @lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        # A word of its own in the seed: not the generator of any step.
        return np.random.default_rng([recipe.seed, epoch, 1]).permutation(count)

    def draw(step: int, rng: np.random.Generator) -> list[int]:
        places = range(step * recipe.batch_size, (step + 1) * recipe.batch_size)
        return [order(place // count)[place % count] for place in places]

    return draw


def _build(manifest: Path, folder: Path, config: FrontendConfig) -> None:
    """Write ``frames.f16`` and then ``clips.npy``, whose presence says that both are whole."""
    folder.mkdir(parents=True, exist_ok=True)
    frontend = LogMelFrontend(config)
    clips, first = [], 0
    with open(manifest, newline="") as stream:
        reader = csv.DictReader(stream)
        rows, columns = list(reader), reader.fieldnames or []
    if missing := {"path", "kind"} - set(columns):
        raise ValueError(f"{manifest} has no column {' or '.join(sorted(missing))}; its first line names {columns}")
    with open(folder / "frames.f16", "wb") as out:
        for row in tqdm(rows, desc="features", unit="file"):
            for waveform in _clips_of(manifest.parent / row["path"], config.sample_rate):
                log_mel = frontend.log_mel(torch.from_numpy(waveform)[None])
                if log_mel.std() <= SILENCE_STD:
                    continue
                features = normalise(log_mel, unbiased=False)[0].half().numpy()
                out.write(features.tobytes())
                clips.append((first, len(features), row["kind"]))
                first += len(features)
    if not clips:
        raise ValueError(f"{manifest} lists no audio")
    table = np.array(clips, dtype=[("first", np.int64), ("frames", np.int64), ("kind", "U16")])
    with replacing(folder / "clips.npy") as temporary, open(temporary, "wb") as out:
        np.save(out, table)


def _clips_of(path: Path, sample_rate: int) -> list[np.ndarray]:
    try:
        audio, rate = soundfile.read(path, dtype="float32")
    except (OSError, soundfile.SoundFileError) as error:
        raise ValueError(f"the manifest lists {path}, which cannot be read: {error}") from error
    if rate != sample_rate or audio.ndim != 1:
        raise ValueError(f"{path} must be {sample_rate} Hz mono, is {rate} Hz with {audio.ndim} dimensions")
    size, rest = int(CLIP_SECONDS * rate), int(MIN_REST_SECONDS * rate)
    pieces = [audio[start : start + size] for start in range(0, len(audio), size)]
    return pieces[:1] + [piece for piece in pieces[1:] if len(piece) >= rest]
