"""The HEAR model: waveform -> front-end -> chunks -> encoder -> timestamp and scene embeddings."""

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, groupby
from operator import itemgetter
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor, nn

from .clips import Clip, check_audio, cut, waveforms, whole_numbers
from .config import ModelConfig, parse_pooling
from .encoder import Encoder
from .errors import HearMwmaeError
from .frontend import LogMelFrontend, reflect_index
from .hub import HubModel
from .pooling import count_time_steps, pool, time_step_ms

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TIMESTAMPS = ("centred", "official")
ERRORS = ("raise", "skip")
#: Chunks of a clip whose time steps are in memory together: four minutes, of two seconds each.
PIECE_CHUNKS = 128


class _Piece(NamedTuple):
    """Some chunks of a batch of clips."""

    batch: int  #: its number
    samples: int  #: of each whole clip
    steps: int  #: time steps from here to the end of the clip
    chunks: Tensor  #: (B, chunks, frames, bands)


class Embedder(nn.Module, HubModel):
    """A pretrained encoder behind HEAR's model interface. Calling it gives scene embeddings.

    Args:
        config: of the model; the other arguments are those of `hear_mwmae.load_model`.

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
        precision = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
        if precision not in DTYPES.values():
            raise HearMwmaeError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        if timestamps not in TIMESTAMPS:
            raise HearMwmaeError(
                f"timestamps must be one of {', '.join(TIMESTAMPS)}, got {timestamps!r}"
            )
        if type(max_batch) is not int or max_batch < 1:
            raise HearMwmaeError(
                f"max_batch must be a whole number of chunks above 0, got {max_batch!r}"
            )
        if not isinstance(trainable, bool):
            raise HearMwmaeError(f"trainable must be True or False, got {trainable!r}")
        if trainable and precision == torch.bfloat16:
            warnings.warn("weights in bfloat16 do not take small updates", stacklevel=4)
        if pooling is not None:
            config = dataclasses.replace(config, pooling=pooling)
        self.config = config
        self.timestamps = timestamps
        self.max_batch = max_batch
        self.sample_rate: int = config.frontend.sample_rate
        self.scene_embedding_size: int = config.scene_embedding_size
        self.timestamp_embedding_size: int = config.embedding_size
        self.frontend = LogMelFrontend(config.frontend)
        self.encoder: Encoder = Encoder(config).to(precision)
        if not self.encoder.pos_embed.is_meta:  # on the default device of the process
            self.frontend.to(self.encoder.pos_embed.device)
        self.requires_grad_(trainable).eval()

    @overload
    def embed(
        self,
        clips: Clip | Iterable[Clip],
        sample_rate: int | None = None,
        timestamps: Literal[False] = False,
        errors: Literal["raise", "skip"] = "raise",
    ) -> Tensor: ...

    @overload
    def embed(
        self,
        clips: Clip | Iterable[Clip],
        sample_rate: int | None = None,
        *,
        timestamps: Literal[True],
        errors: Literal["raise", "skip"] = "raise",
    ) -> tuple[list[Tensor], list[Tensor]]: ...

    def embed(
        self,
        clips: Clip | Iterable[Clip],
        sample_rate: int | None = None,
        timestamps: bool = False,
        errors: Literal["raise", "skip"] = "raise",
    ) -> Tensor | tuple[list[Tensor], list[Tensor]]:
        """Embed clips of any kinds, lengths and rates, one or a list of them.

        Each clip is normalised by itself, so its embedding does not depend on the other clips.
        Clips are encoded together, ``max_batch`` chunks at a time.

        Args:
            clips: a path, a file that is open for reading bytes, the bytes of a file, (samples,)
                floating point in [-1, 1], or a clip of a data set of Hugging Face, decoded or not;
                or a list or generator of these; also (clips, samples).
            sample_rate: Hz of the arrays; the model's when None. Files and clips of data sets, such
                as ``{"array": array, "sampling_rate": 8000}``, have their own.
            timestamps: return one embedding per time step instead of one per clip.
            errors: ``"raise"`` for the first clip that cannot be read, or ``"skip"``: its row is
                NaN, with ``timestamps`` it has no time steps, and one warning names all such clips.

        Returns:
            (clips, ``scene_embedding_size``) float32; or, with ``timestamps``, the lists of (T,
            ``timestamp_embedding_size``) and (T,) milliseconds of each clip.
        """
        if errors not in ERRORS:
            raise HearMwmaeError(f"errors must be one of {', '.join(ERRORS)}, got {errors!r}")
        skipped: dict[int, str] = {}
        kept = skipped if errors == "skip" else None
        found = waveforms(clips, sample_rate, self.sample_rate, self.device, kept)
        results: list[Any] = [  # scenes, or time steps and their times, each of one clip
            self._timed(pieces, samples) if timestamps else self._pooled(pieces)
            for pieces, samples in self.time_steps(found)
        ]
        if skipped:
            lines = [f"not embedded: {problem}" for problem in skipped.values()]
            warnings.warn("\n".join(lines), stacklevel=2)
        for number in skipped:  # in their order, so that each gets its place
            results.insert(number, self._nothing(timestamps))
        if not results:
            raise HearMwmaeError("no audio: the list of clips is empty")
        if not timestamps:
            return torch.cat(results)
        return [features[0] for features, _ in results], [times[0] for _, times in results]

    def forward(
        self, audio: Tensor, lengths: Sequence[int] | Tensor | None = None, timestamps: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Scene embeddings, or timestamp embeddings: what the HEAR functions call, so that hooks
        and `torch.compile` work through them.

        Args:
            audio: (B, samples) floating point in [-1, 1], at ``sample_rate``.
            lengths: (B,) samples of each clip, if shorter clips are padded at their end. The
                padding is removed. Of scene embeddings only.

        Returns:
            (B, ``scene_embedding_size``) float32, each clip's time steps pooled; or, with
            ``timestamps``, (B, T, ``timestamp_embedding_size``) and (B, T) in milliseconds, both
            float32. Centred timestamps are within the audio: a last time step with its centre
            beyond the end is left out. A clip too short for one centre has one, at its middle.
        """
        if timestamps and lengths is not None:
            raise HearMwmaeError("lengths are for scene embeddings; embed a list of clips instead")
        audio = check_audio(audio, self.device)
        batches = [audio] if lengths is None else [clip[None] for clip in cut(audio, lengths)]
        found = self.time_steps(batches)
        if timestamps:
            (timed,) = [self._timed(pieces, samples) for pieces, samples in found]
            return timed
        return torch.cat([self._pooled(pieces) for pieces, _ in found])

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
            raise HearMwmaeError(
                f"blocks must be a list of numbers from {-depth} to {depth - 1}, got {blocks}"
            )
        audio = check_audio(audio, self.device)

        def encode(chunks: Tensor) -> Tensor:
            outputs = self.encoder.forward_layers(chunks)
            return torch.cat([self.encoder.time_steps(outputs[number]) for number in chosen], dim=2)

        (steps,) = [torch.cat(list(found), dim=1) for found, _ in self.time_steps([audio], encode)]
        return list(steps.unflatten(2, (len(chosen), -1)).unbind(2))

    @property
    def device(self) -> torch.device:
        """Where the model computes; audio is moved there."""
        return self.frontend.device

    def time_steps(
        self, batches: Iterable[Tensor], encode: Callable[[Tensor], Tensor] | None = None
    ) -> Iterator[tuple[Iterator[Tensor], int]]:
        """Batches of clips of one length, (B, samples) -> the time steps of each batch in pieces,
        and its samples, in order.

        A batch is one piece (B, T, D) float32 of all its time steps. Only clips above
        ``PIECE_CHUNKS`` chunks are more pieces, one after another in time, so that not all of them
        are in memory. Take the pieces of a batch before the next batch.

        The chunks of several batches go through the encoder together, up to ``max_batch`` at a
        time.

        Args:
            encode: chunks -> (chunks, time steps, D); the encoder's `forward_features` when None.
        """
        encode = encode or self.encoder.forward_features
        for (_, samples), pieces in groupby(self._encoded(batches, encode), itemgetter(0, 1)):
            yield (steps for _, _, steps in pieces), samples

    def _encoded(
        self, batches: Iterable[Tensor], encode: Callable[[Tensor], Tensor]
    ) -> Iterator[tuple[int, int, Tensor]]:
        """Number and samples of a batch, and a piece of its time steps."""
        held: list[_Piece] = []
        waiting = 0
        for piece in self._pieces(batches):
            held.append(piece)
            waiting += piece.chunks.shape[:2].numel()
            del piece
            if waiting >= self.max_batch:
                yield from self._encode(held, encode)
                held, waiting = [], 0
        if held:
            yield from self._encode(held, encode)

    def _pieces(self, batches: Iterable[Tensor]) -> Iterator[_Piece]:
        patch, size = self.config.patch_size[0], self.config.input_frames
        numbers = count()  # enumerate() would keep the audio
        for audio in batches:
            batch = next(numbers)
            samples = audio.shape[1]
            with torch.no_grad():
                spectrogram = self.frontend(audio)
            del audio  # an hour takes 230 MB
            for first in range(0, spectrogram.shape[1], PIECE_CHUNKS * size):
                chunks = chunked(spectrogram, size, first, PIECE_CHUNKS)
                steps = count_time_steps(self.config, samples) - first // patch
                yield _Piece(batch, samples, steps, chunks)
                del chunks

    def _encode(
        self, held: list[_Piece], encode: Callable[[Tensor], Tensor]
    ) -> Iterator[tuple[int, int, Tensor]]:
        """The chunks of pieces together -> their time steps, as `_encoded` yields them."""
        shapes = [piece.chunks.shape[:2] for piece in held]
        chunks = torch.cat([piece.chunks.flatten(0, 1) for piece in held])
        # Gradients are computed if the caller enables them and a weight of the encoder requires
        # them. An ambient autocast would silently change the precision that was asked for.
        trainable = any(weight.requires_grad for weight in self.encoder.parameters())
        wanted = torch.set_grad_enabled(torch.is_grad_enabled() and trainable)
        with wanted, torch.autocast(chunks.device.type, enabled=False):
            features = torch.cat([encode(group).float() for group in chunks.split(self.max_batch)])
        parts = features.split([shape.numel() for shape in shapes])
        for piece, shape, part in zip(held, shapes, parts, strict=True):
            steps = part.unflatten(0, shape).flatten(1, 2)
            yield piece.batch, piece.samples, steps[:, : piece.steps]

    def _pooled(self, pieces: Iterable[Tensor]) -> Tensor:
        return pool(pieces, parse_pooling(self.config.pooling))

    def _nothing(self, timestamps: bool) -> Tensor | tuple[Tensor, Tensor]:
        """In place of the embeddings of a clip that cannot be read."""
        one = torch.ones(1, dtype=torch.float32, device=self.device)
        if not timestamps:
            return one.new_full((1, self.scene_embedding_size), torch.nan)
        return one.new_empty(1, 0, self.timestamp_embedding_size), one.new_empty(1, 0)

    def _timed(self, pieces: Iterable[Tensor], samples: int) -> tuple[Tensor, Tensor]:
        steps = torch.cat(list(pieces), dim=1)
        times = time_step_ms(self.config, samples, self.timestamps).to(steps.device)
        return steps[:, : len(times)].contiguous(), times.repeat(len(steps), 1)


def chunked(spectrogram: Tensor, size: int, first: int = 0, most: int | None = None) -> Tensor:
    """(B, frames, bands) -> (B, chunks, size, bands): encoder inputs, one after another.

    The end is padded by repeated reflection over the clip, as in the authors' code. Unlike theirs,
    a clip that fills its last chunk gets no additional chunk.

    Args:
        first: the frame where the chunks start.
        most: number of chunks; all when None.
    """
    frames = spectrogram.shape[1]
    chunks = (frames - first + size - 1) // size
    if most is not None:
        chunks = min(chunks, most)
    index = reflect_index(frames, first, first + chunks * size, spectrogram.device)
    return spectrogram[:, index].unflatten(1, (chunks, size))
