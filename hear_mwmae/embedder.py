"""The HEAR model: waveform -> front-end -> chunks -> encoder -> timestamp and scene embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from .config import ModelConfig
from .encoder import Encoder
from .errors import HearMwmaeError
from .frontend import LogMelFrontend, reflect_pad

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TIMESTAMPS = ("centred", "official")
#: No audio is louder: the squares of its spectrum would leave float32, and look like silence. (Bytes in a wrong order do.)
LOUDEST = 1e12


class Embedder(nn.Module):
    """A pretrained encoder behind HEAR's model interface.

    Args:
        config: the model's.
        dtype: precision of the encoder, ``"float32"`` or ``"bfloat16"``; the front-end, the averages and the results are
            float32 always.
        timestamps: ``"centred"``, the middles of the time steps, or ``"official"``, those of the authors' own wrapper
            (i * duration / T: neither centred nor exactly one time step apart).
        max_batch: chunks of ``input_frames`` frames that go through the encoder at once: bounds the memory whatever the length
            and the number of clips.

    Attributes:
        sample_rate: Hz that the audio must have.
        scene_embedding_size, timestamp_embedding_size: both bands * encoder width.
    """

    def __init__(self, config: ModelConfig, dtype: str = "float32", timestamps: str = "centred", max_batch: int = 64) -> None:
        super().__init__()
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise HearMwmaeError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        if not isinstance(timestamps, str) or timestamps not in TIMESTAMPS:
            raise HearMwmaeError(f"timestamps must be one of {', '.join(TIMESTAMPS)}, got {timestamps!r}")
        if not isinstance(max_batch, int) or isinstance(max_batch, bool) or not 0 < max_batch < 1 << 31:
            raise HearMwmaeError(f"max_batch must be a whole number of chunks above 0, got {max_batch!r}")
        self.config = config
        self.timestamps = timestamps
        self.max_batch = max_batch
        self.sample_rate: int = config.frontend.sample_rate
        self.scene_embedding_size: int = config.embedding_size
        self.timestamp_embedding_size: int = config.embedding_size
        self.frontend = LogMelFrontend(config.frontend)
        self.encoder = Encoder(config).to(DTYPES[dtype])
        self.requires_grad_(False).eval()

    def forward(self, audio: Tensor) -> Tensor:
        """Scene embeddings, see :meth:`scene_embeddings`."""
        return self.scene_embeddings(audio)

    @torch.no_grad()
    def scene_embeddings(self, audio: Tensor) -> Tensor:
        """(B, samples) float audio -> (B, scene_embedding_size) float32: the mean over all time steps of the clip."""
        return self._scenes([self.check_audio(audio)])

    @torch.no_grad()
    def scene_embeddings_of_clips(self, clips: Sequence[Tensor]) -> Tensor:
        """Clips of any lengths, each (samples,) -> (clips, scene_embedding_size), encoded together."""
        if not clips:
            raise HearMwmaeError("no audio: the list of clips is empty")
        return self._scenes([self.check_audio(clip[None]) for clip in clips])

    @torch.no_grad()
    def timestamp_embeddings(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(B, samples) -> embeddings (B, T, timestamp_embedding_size) and timestamps (B, T) in milliseconds, both float32.

        Centred timestamps never lie beyond the end of the audio: a last time step whose centre does is left out. A clip too
        short for one centre has one, at its middle.
        """
        audio = self.check_audio(audio)
        chunks, per_clip = self._chunks(audio)
        features = torch.cat(list(self._encode(chunks)))
        features = features.view(len(audio), per_clip * self.config.grid_size[0], -1)
        times = self._timestamps(audio)
        # A tensor of its own: no view that keeps the padding's time steps alive.
        return features[:, : len(times)].contiguous(), times.repeat(len(audio), 1)

    def check_audio(self, audio: Tensor) -> Tensor:
        """The audio as float32 on the model's device; HearMwmaeError when it is not a batch of finite floating-point clips."""
        if not isinstance(audio, Tensor):
            raise HearMwmaeError(f"audio must be a torch tensor of shape (clips, samples), got {type(audio).__name__}")
        if audio.ndim != 2:
            raise HearMwmaeError(f"audio must have shape (clips, samples), got {tuple(audio.shape)}; one clip is audio[None]")
        if audio.layout != torch.strided:
            raise HearMwmaeError(f"audio must be a dense tensor, got layout {audio.layout}")
        if not audio.is_floating_point():
            raise HearMwmaeError(
                f"audio must be floating point within [-1, 1], got {audio.dtype}: divide integers by their range"
            )
        if not len(audio):
            raise HearMwmaeError(f"no audio in the batch: shape {tuple(audio.shape)}")
        if not audio.shape[1]:
            raise HearMwmaeError(f"empty audio: shape {tuple(audio.shape)}, at least 1 sample is needed")
        audio = audio.detach().to(self.frontend.window.device, torch.float32)
        peaks = audio.abs().amax(dim=1)
        if not bool((peaks <= LOUDEST).all()):  # NaN is not below anything
            bad = (~(peaks <= LOUDEST)).nonzero().flatten().tolist()
            what = "NaN or infinity" if not bool(peaks.isfinite().all()) else f"samples as large as {float(peaks.max()):.0e}"
            raise HearMwmaeError(f"audio holds {what} in clip {', '.join(map(str, bad[:10]))} of {len(audio)}")
        return audio

    def _scenes(self, batches: list[Tensor]) -> Tensor:
        """Mean over time of every clip, all chunks of all batches going through the encoder together."""
        chunked = [self._chunks(audio) for audio in batches]
        chunks = torch.cat([chunks for chunks, _ in chunked])
        grid_steps = self.config.grid_size[0]
        # Each chunk counts with the time steps that are audio, not padding.
        valid = [
            (self._time_steps(audio) - torch.arange(per_clip) * grid_steps).clamp(max=grid_steps).repeat(len(audio))
            for audio, (_, per_clip) in zip(batches, chunked, strict=True)
        ]
        masks = torch.arange(grid_steps, device=chunks.device) < torch.cat(valid).to(chunks.device)[:, None]
        pieces = zip(self._encode(chunks), masks.split(self.max_batch), strict=True)
        sums = torch.cat([(features * mask[:, :, None]).sum(dim=1) for features, mask in pieces])
        scenes, first = [], 0
        for audio, (_, per_clip) in zip(batches, chunked, strict=True):
            own = sums[first : first + len(audio) * per_clip].view(len(audio), per_clip, -1)
            scenes.append(own.sum(dim=1) / self._time_steps(audio))
            first += len(audio) * per_clip
        return torch.cat(scenes)

    def _chunks(self, audio: Tensor) -> tuple[Tensor, int]:
        """Spectrograms cut into encoder inputs: (B * chunks, input_frames, n_mels), and the chunks of one clip.

        The end is padded by reflection over the whole clip, as often as it takes, as the authors do. Unlike theirs, a clip that
        fills its last chunk gets no further one.
        """
        spectrogram = self.frontend(audio)
        frames, size = spectrogram.shape[1], self.config.input_frames
        per_clip = -(-frames // size)
        return reflect_pad(spectrogram, 0, per_clip * size - frames).reshape(len(audio) * per_clip, size, -1), per_clip

    def _encode(self, chunks: Tensor) -> Iterator[Tensor]:
        """(chunks, input_frames, n_mels) -> float32 (up to max_batch, time steps, bands * width), piece by piece."""
        # An ambient autocast would silently change the precision that was asked for.
        with torch.autocast(chunks.device.type, enabled=False):
            for piece in chunks.split(self.max_batch):
                yield self.encoder.forward_features(piece).float()

    def _time_steps(self, audio: Tensor) -> int:
        """Time steps that hold any of the clip's frames; those of the padding are cut off."""
        frames = audio.shape[1] // self.config.frontend.hop_length + 1
        return -(-frames // self.config.patch_size[0])

    def _timestamps(self, audio: Tensor) -> Tensor:
        """(T,) float32 milliseconds; computed in float64, so that nothing drifts over hours."""
        steps = torch.arange(self._time_steps(audio), dtype=torch.float64)  # on the CPU: not every device has float64
        duration = 1000.0 * audio.shape[1] / self.sample_rate
        if self.timestamps == "official":
            return (steps * duration / len(steps)).float().to(audio.device)
        hop = 1000.0 * self.config.frontend.hop_length / self.sample_rate
        frames = self.config.patch_size[0]
        # The middle of the first and the last frame of a patch; frame f is centred at f * hop.
        centres = steps * frames * hop + (frames - 1) / 2 * hop
        centres = centres[centres <= duration]
        if not len(centres):
            centres = torch.tensor([duration / 2], dtype=torch.float64)
        return centres.float().to(audio.device)
