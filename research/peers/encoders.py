"""The encoders of the comparison: from a clip at 16 kHz to one vector.

encoders.csv describes them. A package is imported when its encoder is loaded, so that the others
work without it. Weights are those that come with the packages: nothing is downloaded.
"""

import csv
import io
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from torch import nn
from torch.serialization import safe_globals

from hear_mwmae.baselines import load_models
from hear_mwmae.tasks import SAMPLE_RATE
from hear_mwmae.weights import DEFAULT_MODEL

#: (samples,) float32 at 16 kHz -> (numbers,)
Embed = Callable[[np.ndarray], np.ndarray]


class Encoder(NamedTuple):
    """A row of encoders.csv, and the function that loads it."""

    key: str  #: name of the file of its results
    title: str  #: of its rows
    about: str  #: what the vector consists of
    code_licence: str  #: as the package states it
    weights_licence: str
    distribution: str  #: on the package index
    install: str  #: commands
    load: Callable[[], tuple[Embed, int]]  #: also returns the number of learned parameters

    @property
    def version(self) -> str:
        """Of the package; PackageNotFoundError if it is missing."""
        return f"{self.distribution} {version(self.distribution)}"


def count(module: nn.Module) -> int:
    return sum(weights.numel() for weights in module.parameters())


def own(source: str) -> tuple[Embed, int]:
    """A model or baseline of this package, with the embedded model's pooling."""
    models, _ = load_models({source: source})
    model = models[source]

    def embed(waveform: np.ndarray) -> np.ndarray:
        return model.embed([torch.from_numpy(waveform)])[0].numpy()

    return embed, count(model)


def mfcc() -> tuple[Embed, int]:
    import librosa

    def embed(waveform: np.ndarray) -> np.ndarray:
        coefficients = librosa.feature.mfcc(
            y=waveform, sr=SAMPLE_RATE, n_mfcc=20, n_fft=512, hop_length=160, n_mels=64
        )
        # "nearest" also takes clips that are shorter than the filter.
        deltas = librosa.feature.delta(coefficients, mode="nearest")
        rows = np.vstack([coefficients, deltas])
        return np.concatenate([rows.mean(axis=1), rows.std(axis=1), rows.max(axis=1)])

    return embed, 0


def opensmile(feature_set: str) -> tuple[Embed, int]:
    import opensmile

    smile = opensmile.Smile(
        feature_set=opensmile.FeatureSet[feature_set],
        feature_level=opensmile.FeatureLevel.Functionals,
    )

    def embed(waveform: np.ndarray) -> np.ndarray:
        return np.nan_to_num(smile.process_signal(waveform, SAMPLE_RATE).to_numpy()[0])

    return embed, 0


def aisfx() -> tuple[Embed, int]:
    from aisfx import inference
    from aisfx.spectrogram.spectrogram_librosa import compute_spectrogram

    # The checkpoint names classes of NumPy, and is read without running code of its own.
    scalar = np.float64(0).__reduce__()[0]
    numbers = [np.dtype, np.dtypes.Float64DType, np.dtypes.Int64DType]
    with safe_globals([(scalar, "numpy.core.multiarray.scalar"), *numbers]):
        weights, sets = inference.load_weights("cpu")
    model = inference.load_bestModel(weights, sets, "cpu")
    # A block of the network; the package refuses clips that are shorter than half of one.
    block = inference.EMB_BLOCK_LENGTH * inference.SPEC_HOP_LENGTH / inference.SAMPLE_RATE
    least = int(np.ceil(block * SAMPLE_RATE))

    def embed(waveform: np.ndarray) -> np.ndarray:
        file = io.BytesIO()  # it reads files, and resamples them
        padded = np.pad(waveform, (0, max(0, least - len(waveform))))
        soundfile.write(file, padded, SAMPLE_RATE, format="WAV", subtype="FLOAT")
        file.seek(0)
        bands_by_frames = compute_spectrogram(
            file,
            inference.SAMPLE_RATE,
            inference.SPEC_BLOCK_LENGTH,
            inference.SPEC_HOP_LENGTH,
            inference.MEL_BINS,
            inference.F_MIN,
            inference.F_MAX,
        )
        # Frames by bands, as its other front-end (essentia) returns them and the network expects.
        frames = inference.spectrogram_normalize(bands_by_frames.T)
        blocks = inference.model_get_embedding(frames, 0.5, True, model, "cpu")
        return torch.cat([blocks.mean(dim=0), blocks.amax(dim=0)]).numpy()

    return embed, count(model.embedding_net)


def resemblyzer() -> tuple[Embed, int]:
    import resemblyzer

    model = resemblyzer.VoiceEncoder("cpu", verbose=False)
    level = resemblyzer.audio.audio_norm_target_dBFS

    def embed(waveform: np.ndarray) -> np.ndarray:
        # Its voice detector, which removes silence, would remove most sounds that are not speech.
        louder = resemblyzer.normalize_volume(waveform, level, increase_only=True)
        return model.embed_utterance(louder)

    return embed, count(model)


def crepe() -> tuple[Embed, int]:
    """32 frames at a time: larger batches are slower on a CPU."""
    import torchcrepe

    torchcrepe.load.model("cpu", "tiny")

    @torch.inference_mode()
    def embed(waveform: np.ndarray) -> np.ndarray:
        clip = torch.from_numpy(waveform)[None]
        batches = torchcrepe.preprocess(clip, SAMPLE_RATE, SAMPLE_RATE // 20, 32)
        pitches = torch.cat([torchcrepe.infer(frames, "tiny") for frames in batches])
        return torch.cat([pitches.mean(dim=0), pitches.amax(dim=0)]).numpy()

    return embed, count(torchcrepe.infer.model)


LOADERS: dict[str, Callable[[], tuple[Embed, int]]] = {
    "embedded": partial(own, ""),
    "untrained": partial(own, "untrained"),
    "log-mel": partial(own, "log-mel"),
    "aisfx": aisfx,
    "mfcc": mfcc,
    "egemaps": partial(opensmile, "eGeMAPSv02"),
    "compare-2016": partial(opensmile, "ComParE_2016"),
    "resemblyzer": resemblyzer,
    "crepe-tiny": crepe,
}


def read_encoders() -> list[Encoder]:
    """The rows of encoders.csv, in the order of the tables."""
    with Path(__file__).with_name("encoders.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["title"] = row["title"].format(model=DEFAULT_MODEL)
    return [Encoder(**row, load=LOADERS[row["key"]]) for row in rows]
