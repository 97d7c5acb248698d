"""The HEAR model: waveform -> front-end -> chunks -> encoder -> timestamp and scene embeddings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Literal, overload

import torch
from torch import Tensor, nn

from .clips import Clip, check_audio, clip_blocks, cut, listed_clips, whole_numbers
from .config import ModelConfig, parse_pooling
from .encoder import Encoder
from .errors import HearMwmaeError
from .frontend import LogMelFrontend, reflect_index
from .pooling import ChunkStatistics

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TIMESTAMPS = ("centred", "official")


class Embedder(nn.Module):
    """A pretrained encoder behind HEAR's model interface. Calling it gives scene embeddings.

    Args:
        config: of the model.
        dtype: precision of the encoder, ``"float32"`` or ``"bfloat16"`` (or the torch.dtype). The
            front-end, the pooling and the results are always float32.
        pooling: statistics over time in a scene, such as ``"mean+std+max"``; the configuration's
            when None.
        timestamps: ``"centred"``, the middles of the time steps, or ``"official"``, the timestamps
            of the authors' wrapper (i * duration / T: neither centred nor exactly one time step
            apart).
        max_batch: chunks of ``input_frames`` frames per encoder call. It bounds the memory for any
            number of clips, except for the spectrogram of a long clip, 115 MB per hour.
        trainable: the encoder's weights require gradients, and embeddings carry them.

    Attributes:
        sample_rate: Hz that the audio must have.
        timestamp_embedding_size: bands * encoder width.
        scene_embedding_size: timestamp_embedding_size times the statistics of the pooling.
    """

    def __init__(
        self,
        config: ModelConfig,
        dtype: str | torch.dtype = "float32",
        pooling: str | None = None,
        timestamps: str = "centred",
        max_batch: int = 64,
        trainable: bool = False,
    ) -> None:
        super().__init__()
        names = {name: kind for name, kind in DTYPES.items() if isinstance(dtype, str | torch.dtype) and dtype in (name, kind)}
        if not names:
            raise HearMwmaeError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        if not isinstance(timestamps, str) or timestamps not in TIMESTAMPS:
            raise HearMwmaeError(f"timestamps must be one of {', '.join(TIMESTAMPS)}, got {timestamps!r}")
        if not isinstance(max_batch, int) or isinstance(max_batch, bool) or not 0 < max_batch < 1 << 31:
            raise HearMwmaeError(f"max_batch must be a whole number of chunks above 0, got {max_batch!r}")
        if not isinstance(trainable, bool):
            raise HearMwmaeError(f"trainable must be True or False, got {trainable!r}")
        self.config = config = dataclasses.replace(config, pooling=config.pooling if pooling is None else pooling)
        self.timestamps = timestamps
        self.max_batch = max_batch
        self.sample_rate: int = config.frontend.sample_rate
        self.scene_embedding_size: int = config.scene_embedding_size
        self.timestamp_embedding_size: int = config.embedding_size
        self.frontend = LogMelFrontend(config.frontend)
        self.encoder = Encoder(config).to(next(iter(names.values())))
        self.requires_grad_(trainable).eval()

    @overload
    def embed(
        self, clips: Clip | Sequence[Clip], sample_rate: int | Sequence[int] | None = None, timestamps: Literal[False] = False
    ) -> Tensor: ...

    @overload
    def embed(
        self, clips: Clip | Sequence[Clip], sample_rate: int | Sequence[int] | None = None, *, timestamps: Literal[True]
    ) -> tuple[list[Tensor], list[Tensor]]: ...

    def embed(
        self, clips: Clip | Sequence[Clip], sample_rate: int | Sequence[int] | None = None, timestamps: bool = False
    ) -> Tensor | tuple[list[Tensor], list[Tensor]]:
        """Embed clips of any lengths and rates: files, arrays or tensors, one or a list of them.

        Each clip is normalised by itself, so its embedding does not depend on the other clips.
        Files of any length take bounded memory. Clips are encoded together, ``max_batch`` chunks at
        a time.

        Args:
            clips: a path, (samples,) floating point in [-1, 1], or a list of these; also (clips,
                samples).
            sample_rate: Hz of the arrays, one for all or one for each clip; the model's when None.
                Files have their own.
            timestamps: return one embedding per time step instead of one per clip.

        Returns:
            (clips, ``scene_embedding_size``) float32; or, with ``timestamps``, the lists of (T,
            ``timestamp_embedding_size``) and (T,) milliseconds of each clip.
        """
        streams = self._streams(clips, sample_rate)
        if not timestamps:
            return self._scenes(spectrogram for spectrogram, _ in streams)
        steps, times = [], []
        for spectrogram, samples in streams:
            with self._gradients():
                features = torch.cat(list(self._rows(spectrogram)))
            times.append(self._timestamps(samples))
            steps.append(features[: len(times[-1])])
        return steps, times

    def forward(
        self, audio: Tensor, lengths: Sequence[int] | Tensor | None = None, timestamps: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """`scene_embeddings`, or `timestamp_embeddings`: the HEAR functions call this method.

        So hooks and `torch.compile` work through the HEAR functions.
        """
        if timestamps:
            return self._timestamp_embeddings(audio)
        audio = self.check_audio(audio)
        if lengths is None:
            with self._gradients():
                return self._scenes(self.frontend(audio))
        return self._scenes(self._stream([clip])[0] for clip in cut(audio, lengths))

    def scene_embeddings(self, audio: Tensor, lengths: Sequence[int] | Tensor | None = None) -> Tensor:
        """(B, samples) float audio -> (B, scene_embedding_size) float32: each clip's time steps,
        pooled.

        Args:
            lengths: (B,) samples of each clip, if shorter clips are padded at their end. The
                padding is removed.
        """
        return self(audio, lengths)

    def timestamp_embeddings(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(B, samples) -> embeddings (B, T, timestamp_embedding_size) and timestamps (B, T) in
        milliseconds, both float32.

        Centred timestamps are within the audio: a last time step with its centre beyond the end is
        left out. A clip too short for one centre has one timestamp, at its middle.
        """
        return self(audio, timestamps=True)

    def layers(self, audio: Tensor, blocks: Iterable[int] | None = None) -> list[Tensor]:
        """Outputs of chosen encoder blocks, before the last layer norm.

        Args:
            audio: (B, samples), as for the HEAR functions.
            blocks: numbers from 0, or from -1 backwards; all when None.

        Returns:
            For each block (B, T, ``timestamp_embedding_size``) float32: the tokens of a time step
            side by side. T counts every time step that holds audio.
        """
        depth = self.config.encoder.depth
        chosen = whole_numbers(range(depth) if blocks is None else blocks)
        if not chosen or not all(-depth <= number < depth for number in chosen):
            raise HearMwmaeError(f"blocks must be a list of numbers from {-depth} to {depth - 1}, got {blocks}")
        audio = self.check_audio(audio)
        with self._gradients(), torch.autocast(audio.device.type, enabled=False):
            outputs = []
            for chunks, _, _ in self._chunks(self.frontend(audio)):
                layers = self.encoder.forward_layers(chunks)
                outputs.append(torch.stack([self.encoder.time_steps(layers[number]).float() for number in chosen]))
            joined = torch.cat(outputs, dim=1).unflatten(1, (len(audio), -1)).flatten(2, 3)
            return list(joined[:, :, : self._time_steps(audio.shape[1])].unbind())

    @torch.no_grad()
    def scene_embeddings_of_clips(self, clips: Sequence[Tensor]) -> Tensor:
        """Clips of any lengths at the model's rate, each (samples,) -> (clips,
        scene_embedding_size), encoded together.
        """
        return self._scenes(spectrogram for spectrogram, _ in self._streams(list(clips), None))

    @torch.no_grad()
    def scene_embedding_of_blocks(self, blocks: Iterable[Tensor], progress: Callable[[float], object] | None = None) -> Tensor:
        """One clip in blocks, each (samples,) -> (scene_embedding_size,), in bounded memory.

        Args:
            progress: called with the seconds of audio of each encoded batch.
        """
        return self._scenes([self._stream(blocks)[0]], progress)[0]

    @torch.no_grad()
    def timestamp_blocks(self, blocks: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """`timestamp_embeddings` of one clip in blocks, piece by piece, in bounded memory.

        Yields:
            (t, ``timestamp_embedding_size``) and (t,) milliseconds, of up to ``max_batch`` chunks
            at a time.
        """
        spectrogram, samples = self._stream(blocks)
        times, first = self._timestamps(samples), 0
        for rows in self._rows(spectrogram):
            part = times[first : first + len(rows)]
            first += len(rows)
            if len(part):
                yield rows[: len(part)], part

    def check_audio(self, audio: Tensor) -> Tensor:
        """The audio as float32 on the model's device; HearMwmaeError if it is not a batch of finite
        floating-point clips.
        """
        return check_audio(audio, self.frontend.window.device)

    def _gradients(self) -> torch.autograd.grad_mode.set_grad_enabled:
        """Gradients are computed if the caller enables them and a weight of the encoder requires
        them.
        """
        trainable = any(weight.requires_grad for weight in self.encoder.parameters())
        return torch.set_grad_enabled(torch.is_grad_enabled() and trainable)

    def _timestamp_embeddings(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        audio = self.check_audio(audio)
        with self._gradients():
            features = torch.cat([features for features, _, _ in self._features(self.frontend(audio))])
        times = self._timestamps(audio.shape[1])
        # A copy, because a view would keep the padding's time steps in memory.
        features = features.view(len(audio), -1, features.shape[-1])[:, : len(times)].contiguous()
        return features, times.repeat(len(audio), 1)

    def _streams(self, clips: Clip | Sequence[Clip], sample_rate: int | Sequence[int] | None) -> Iterator[tuple[Tensor, int]]:
        """For each clip, lazily, its normalised spectrogram (frames, n_mels) and its number of
        samples.
        """
        device = self.frontend.window.device
        return (
            self._stream(clip_blocks(clip, rate, self.sample_rate, device)) for clip, rate in listed_clips(clips, sample_rate)
        )

    def _stream(self, blocks: Iterable[Tensor]) -> tuple[Tensor, int]:
        """The normalised spectrogram (frames, n_mels) of a clip in blocks, and its number of
        samples.
        """
        lengths = []

        def checked() -> Iterator[Tensor]:
            for block in blocks:
                lengths.append(len(block))
                if len(block):
                    yield self.check_audio(block[None])[0]
            if not sum(lengths):
                raise HearMwmaeError("empty audio: at least 1 sample is needed")

        with torch.no_grad():
            spectrogram = self.frontend.stream(checked())
        return spectrogram, sum(lengths)

    def _scenes(self, spectrograms: Iterable[Tensor], progress: Callable[[float], object] | None = None) -> Tensor:
        """Spectrograms (frames, n_mels) -> (clips, scene_embedding_size): their chunks go through
        the encoder together.
        """
        statistics, owners = ChunkStatistics(parse_pooling(self.config.pooling)), []
        with self._gradients():
            for features, valid, numbers in self._features(spectrograms):
                statistics.add(features, torch.tensor(valid, device=features.device))
                owners += numbers
                if progress:
                    frames = sum(valid) * self.config.patch_size[0]
                    progress(frames * self.config.frontend.hop_length / self.sample_rate)
            return statistics.pool([len(list(chunks)) for _, chunks in groupby(owners)])

    def _rows(self, spectrogram: Tensor) -> Iterator[Tensor]:
        """The time steps of one clip, (t, timestamp_embedding_size), up to max_batch chunks at a
        time.
        """
        for features, valid, _ in self._features([spectrogram]):
            yield features.flatten(0, 1)[: sum(valid)]  # only a clip's last chunk is padded

    def _features(self, spectrograms: Iterable[Tensor]) -> Iterator[tuple[Tensor, list[int], list[int]]]:
        """`_chunks`, encoded: float32 (up to max_batch, time steps, bands * width) in place of the
        chunks.
        """
        for chunks, valid, owners in self._chunks(spectrograms):
            # An ambient autocast would silently change the precision that was asked for.
            with torch.autocast(chunks.device.type, enabled=False):
                features = self.encoder.time_steps(self.encoder(chunks)).float()
            yield features, valid, owners

    def _chunks(self, spectrograms: Iterable[Tensor]) -> Iterator[tuple[Tensor, list[int], list[int]]]:
        """Spectrograms cut into encoder inputs (up to max_batch, input_frames, n_mels), in order.

        With each chunk come the number of its time steps with frames of the clip, and the number of
        the clip. The end is padded by repeated reflection over the clip, as in the authors' code;
        time steps of the padding do not count. Unlike theirs, a clip that fills its last chunk gets
        no additional chunk.
        """
        size, per_step = self.config.input_frames, self.config.patch_size[0]
        held: list[tuple[Tensor, int, int]] = []
        for number, spectrogram in enumerate(spectrograms):
            frames = len(spectrogram)
            for start in range(0, frames, size):
                chunk = spectrogram[start : start + size]
                valid = -(-len(chunk) // per_step)
                if len(chunk) < size:
                    chunk = spectrogram[reflect_index(frames, start, start + size, spectrogram.device)]
                held.append((chunk, valid, number))
                if len(held) == self.max_batch:
                    yield _stacked(held)
                    held = []
        if held:
            yield _stacked(held)

    def _time_steps(self, samples: int) -> int:
        """Number of time steps with frames of the clip."""
        return -(-self.config.frontend.frames(samples) // self.config.patch_size[0])

    def _timestamps(self, samples: int) -> Tensor:
        """(T,) float32 milliseconds; computed in float64, so that nothing drifts over hours."""
        steps = torch.arange(self._time_steps(samples), dtype=torch.float64)  # on the CPU: not every device has float64
        duration = 1000.0 * samples / self.sample_rate
        device = self.frontend.window.device
        if self.timestamps == "official":
            return (steps * duration / len(steps)).float().to(device)
        # The middle of the first and the last frame of a patch; frame f is centred at f * hop. In
        # half samples, which are whole numbers: a centre that falls on the end of the audio stays.
        patch, hop = self.config.patch_size[0], self.config.frontend.hop_length
        count = (2 * samples + (patch + 1) * hop) // (2 * patch * hop)
        if not count:
            return torch.tensor([duration / 2], device=device)
        centres = (steps[:count] * (2 * patch) + (patch - 1)) * hop
        return (centres * (500.0 / self.sample_rate)).float().to(device)


def _stacked(held: list[tuple[Tensor, int, int]]) -> tuple[Tensor, list[int], list[int]]:
    chunks, valid, owners = zip(*held, strict=True)
    return torch.stack(chunks), list(valid), list(owners)
