"""The encoders of the comparison: from a clip at 16 kHz to one vector.

Each imports its package when it is made, so that the others work without it. Weights are those that
come with the packages: nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import io
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np
import soundfile
import torch
from torch.serialization import safe_globals

from hear_mwmae.baselines import load_probed
from hear_mwmae.tasks import SAMPLE_RATE
from hear_mwmae.weights import DEFAULT_MODEL, find_model


class Encoder:
    """Base of the encoders.

    Attributes:
        key: name of the file of its results.
        title: of its rows.
        about: what the vector consists of.
        code_licence, weights_licence: as the package states them.
        modules: that have to be there, and the commands that install them.
        distribution: on the package index; its version identifies results.
        parameters: that were learned, of the part that embeds.
    """

    key: str
    title: str
    about: str
    code_licence: str
    weights_licence = "no weights"
    modules: tuple[str, ...] = ()
    install: str
    distribution: str
    parameters = 0

    @classmethod
    def version(cls) -> str:
        """What the results of an encoder depend on."""
        return f"{cls.distribution} {version(cls.distribution)}"

    @classmethod
    def missing(cls) -> list[str]:
        """The modules that are not installed."""
        return [name for name in cls.modules if find_spec(name) is None]

    def embed(self, waveform: np.ndarray) -> np.ndarray:
        """(samples,) float32 at 16 kHz -> (numbers,)."""
        raise NotImplementedError


class Probed(Encoder):
    """A model or baseline of this package, with the embedded model's pooling."""

    source: str
    code_licence = "Apache-2.0"
    install = "pip install ."

    def __init__(self) -> None:
        self.model = load_probed(self.source)
        self.parameters = sum(weights.numel() for weights in self.model.parameters())

    def embed(self, waveform: np.ndarray) -> np.ndarray:
        return self.model.embed([torch.from_numpy(waveform)])[0].numpy()


class Embedded(Probed):
    key, title, source = "embedded", DEFAULT_MODEL, ""
    about = "the embedded model, its own pooling"
    weights_licence = "Apache-2.0"

    @classmethod
    def version(cls) -> str:
        return f"weights {find_model().sha256[:12]}, {find_model().config.pooling}"


class Untrained(Probed):
    key, title, source = "untrained", f"{DEFAULT_MODEL}, untrained", "untrained"
    about = "the same encoder and pooling with random weights"

    @classmethod
    def version(cls) -> str:
        configuration = hashlib.sha256(repr(find_model().config).encode()).hexdigest()
        return f"configuration {configuration[:12]}, seed 0"


class LogMel(Probed):
    key, title, source = "log-mel", "log-mel statistics", "log-mel"
    about = "the input of the embedded model, its pooling"

    @classmethod
    def version(cls) -> str:
        config = find_model().config
        return f"{config.frontend.bands} bands, {config.pooling}"


class Mfcc(Encoder):
    key, title = "mfcc", "MFCC statistics"
    about = "20 coefficients every 10 ms and their deltas; mean, deviation, maximum"
    code_licence = "ISC"
    modules, distribution = ("librosa",), "librosa"
    install = "pip install librosa"

    def __init__(self) -> None:
        import librosa

        self.features = librosa.feature

    def embed(self, waveform: np.ndarray) -> np.ndarray:
        coefficients = self.features.mfcc(
            y=waveform, sr=SAMPLE_RATE, n_mfcc=20, n_fft=512, hop_length=160, n_mels=64
        )
        # "nearest" also takes clips that are shorter than the filter.
        deltas = self.features.delta(coefficients, mode="nearest")
        rows = np.vstack([coefficients, deltas])
        return np.concatenate([rows.mean(axis=1), rows.std(axis=1), rows.max(axis=1)])


class EGeMaps(Encoder):
    key, title = "egemaps", "openSMILE eGeMAPSv02"
    about = "functionals over the clip; undefined ones are 0"
    code_licence = "audEERING research licence: not for commercial use"
    modules, distribution = ("opensmile",), "opensmile"
    install = "pip install opensmile"
    feature_set = "eGeMAPSv02"

    def __init__(self) -> None:
        import opensmile

        self.smile = opensmile.Smile(
            feature_set=opensmile.FeatureSet[self.feature_set],
            feature_level=opensmile.FeatureLevel.Functionals,
        )

    def embed(self, waveform: np.ndarray) -> np.ndarray:
        functionals = self.smile.process_signal(waveform, SAMPLE_RATE).to_numpy()[0]
        return np.nan_to_num(functionals)


class ComParE(EGeMaps):
    key, title, feature_set = "compare-2016", "openSMILE ComParE_2016", "ComParE_2016"


class AiSfx(Encoder):
    key, title = "aisfx", "aiSFX"
    about = "a CNN trained with labels of sound effects, for 44.1 kHz; mean and maximum over blocks"
    code_licence = "CC BY 4.0 (the package index: MIT)"
    weights_licence = "the same, in the wheel"
    modules, distribution = ("aisfx", "librosa"), "aisfx"
    install = "pip install librosa; pip install --no-deps aisfx"

    def __init__(self) -> None:
        from aisfx import inference
        from aisfx.spectrogram.spectrogram_librosa import compute_spectrogram

        self.inference, self.compute_spectrogram = inference, compute_spectrogram
        # The checkpoint names classes of NumPy, and is read without running code of its own.
        scalar = np.float64(0).__reduce__()[0]
        numbers = [np.dtype, np.dtypes.Float64DType, np.dtypes.Int64DType]
        with safe_globals([(scalar, "numpy.core.multiarray.scalar"), *numbers]):
            weights, sets = inference.load_weights("cpu")
        self.model = inference.load_bestModel(weights, sets, "cpu")
        embedding_net = self.model.embedding_net
        self.parameters = sum(weights.numel() for weights in embedding_net.parameters())

    def embed(self, waveform: np.ndarray) -> np.ndarray:
        inference = self.inference
        # A block of the network; the package refuses clips that are shorter than half of one.
        block = inference.EMB_BLOCK_LENGTH * inference.SPEC_HOP_LENGTH / inference.SAMPLE_RATE
        missing = max(0, int(np.ceil(block * SAMPLE_RATE)) - len(waveform))
        file = io.BytesIO()  # it reads files, and resamples them
        soundfile.write(
            file, np.pad(waveform, (0, missing)), SAMPLE_RATE, format="WAV", subtype="FLOAT"
        )
        file.seek(0)
        bands_by_frames = self.compute_spectrogram(
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
        blocks = inference.model_get_embedding(frames, 0.5, True, self.model, "cpu")
        return torch.cat([blocks.mean(dim=0), blocks.amax(dim=0)]).numpy()


class Resemblyzer(Encoder):
    key, title = "resemblyzer", "Resemblyzer"
    about = "an LSTM trained to tell speakers apart; loudness normalised, silence kept"
    code_licence = "Apache-2.0"
    weights_licence = "the same, in the wheel"
    modules, distribution = ("resemblyzer", "librosa", "webrtcvad"), "resemblyzer"
    install = "pip install librosa webrtcvad-wheels; pip install --no-deps resemblyzer"

    def __init__(self) -> None:
        import resemblyzer

        self.model = resemblyzer.VoiceEncoder("cpu", verbose=False)
        self.parameters = sum(weights.numel() for weights in self.model.parameters())
        self.normalize = resemblyzer.normalize_volume
        self.level = resemblyzer.audio.audio_norm_target_dBFS

    def embed(self, waveform: np.ndarray) -> np.ndarray:
        # Its voice detector, which removes silence, would remove most sounds that are not speech.
        louder = self.normalize(waveform, self.level, increase_only=True)
        return self.model.embed_utterance(louder)


class Crepe(Encoder):
    key, title = "crepe-tiny", "CREPE tiny (torchcrepe)"
    about = "a pitch tracker; mean and maximum of its 360 pitches, every 50 ms"
    code_licence = "MIT"
    weights_licence = "the same, in the wheel"
    modules, distribution = ("torchcrepe",), "torchcrepe"
    install = "pip install torchcrepe"
    hop = SAMPLE_RATE // 20
    #: Frames at a time: larger batches are slower on a CPU.
    batch = 32

    def __init__(self) -> None:
        import torchcrepe

        self.crepe = torchcrepe
        torchcrepe.load.model("cpu", "tiny")
        self.parameters = sum(w.numel() for w in torchcrepe.infer.model.parameters())

    @torch.inference_mode()
    def embed(self, waveform: np.ndarray) -> np.ndarray:
        clip = torch.from_numpy(waveform)[None]
        batches = self.crepe.preprocess(clip, SAMPLE_RATE, self.hop, self.batch)
        pitches = torch.cat([self.crepe.infer(frames, "tiny") for frames in batches])
        return torch.cat([pitches.mean(dim=0), pitches.amax(dim=0)]).numpy()


ENCODERS: tuple[type[Encoder], ...] = (
    Embedded,
    Untrained,
    LogMel,
    AiSfx,
    Mfcc,
    EGeMaps,
    ComParE,
    Resemblyzer,
    Crepe,
)
