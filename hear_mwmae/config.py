"""Configuration of a model: frozen dataclasses with bounds in their types, the paper's presets by
name, and a strict JSON round trip.

Source of all numbers: "Masked Autoencoders with Multi-Window Local-Global Attention Are Better
Audio Learners" (arXiv 2306.00561) and the authors' code.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import field
from typing import Annotated, Any, TypeVar, dataclass_transform

import pydantic.dataclasses
from pydantic import ConfigDict, Field, Strict, TypeAdapter, ValidationError

from .errors import HearMwmaeError, invalid_value

#: name -> (width, depth, heads)
ENCODER_SIZES = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "medium": (512, 12, 8),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}
#: Statistics over time that a pooling joins by "+".
STATISTICS = ("mean", "std", "max")
PAPERS_POOLING = "mean"
_CLS_TOKEN = "windows cannot be combined with a CLS token, which belongs to no window"

# Bounds far above real models. Within them a front-end takes up to 150 MB: a damaged or untrusted
# configuration must not allocate more. The weights of a model are compared with their file first.
Width = Annotated[int, Field(ge=2, le=16_384)]
Depth = Annotated[int, Field(ge=1, le=256)]
Heads = Annotated[int, Field(ge=1, le=1024)]
Ratio = Annotated[float, Field(ge=0.5, le=64)]
Bands = Annotated[int, Field(ge=1, le=512)]
Frames = Annotated[int, Field(ge=1, le=65_536)]
Samples = Annotated[int, Field(ge=2, le=16_384)]
Window = Annotated[int, Field(ge=0, le=65_536)]
#: A tuple that also takes a list, as JSON has it.
WindowSizes = Annotated[tuple[Window, ...], Strict(False)]
PatchSize = Annotated[tuple[Frames, Bands], Strict(False)]
WinLengths = Annotated[tuple[Samples, ...], Strict(False), Field(min_length=1, max_length=8)]

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
Config = TypeVar("Config")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def configuration(cls: type[Config]) -> type[Config]:
    """A frozen dataclass that pydantic checks; HearMwmaeError names the first wrong field."""
    made: Any = pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)(cls)
    checked = made.__init__

    @functools.wraps(checked)
    def init(self: object, *args: object, **values: object) -> None:
        try:
            checked(self, *args, **values)
        except ValidationError as error:
            raise HearMwmaeError(invalid_value(error)) from error

    made.__init__ = init
    return made


def derive_window_sizes(num_tokens: int) -> tuple[int, ...]:
    """The paper's rule for MW-MHA: one head per divisor of ``num_tokens`` in 2..num_tokens-1, then
    two global heads.

    A window size of 0 means global attention. 250 tokens give (2, 5, 10, 25, 50, 125, 0, 0).
    """
    return (*(w for w in range(2, num_tokens) if num_tokens % w == 0), 0, 0)


def parse_pooling(pooling: str) -> tuple[str, ...]:
    """``"mean+std"`` -> ``("mean", "std")``.

    Raises HearMwmaeError on anything but distinct names of :data:`STATISTICS`.
    """
    names = tuple(pooling.split("+"))
    if set(names) - set(STATISTICS) or len(set(names)) < len(names):
        known = ", ".join(STATISTICS)
        raise HearMwmaeError(
            f"pooling must be one or more of {known}, joined by +, got {pooling!r:.100}"
        )
    return names


@configuration
class FrontendConfig:
    """Log-mel front-end: 25 ms windows every 10 ms, 16 kHz, 80 HTK mel bands, natural logarithm.

    Several ``win_lengths`` give several log-mel spectrograms of the same frames and bands, one
    input channel each: a long window resolves pitch, a short one onsets. The paper has one.
    """

    sample_rate: Annotated[int, Field(ge=1, le=1_000_000)] = 16000
    win_lengths: WinLengths = (400,)  # samples; each window has an FFT of its own length
    hop_length: Samples = 160
    n_mels: Bands = 80
    f_min: Annotated[float, Field(ge=0)] = 50.0
    f_max: float = 8000.0
    #: The floor of the logarithm: float32's machine epsilon.
    log_offset: Annotated[float, Field(gt=0, le=1)] = 1.1920929e-07

    def __post_init__(self) -> None:
        highest, shortest = self.sample_rate / 2, min(self.win_lengths)
        mel_range = f"{self.f_min}-{self.f_max} Hz"
        _require(self.f_min < self.f_max <= highest, f"{mel_range} must lie within 0-{highest} Hz")
        _require(self.hop_length <= shortest, f"hop_length leaves gaps between {shortest} samples")

    @property
    def channels(self) -> int:
        """Log-mel spectrograms of one clip, one for each window."""
        return len(self.win_lengths)

    @property
    def bands(self) -> int:
        """Values in one frame: the mel bands of all channels, side by side."""
        return self.channels * self.n_mels

    def frames(self, samples: int) -> int:
        """Frames of a clip: they are centred on multiples of the hop, the first on its first
        sample.
        """
        return samples // self.hop_length + 1


@configuration
class TransformerConfig:
    """Pre-norm transformer blocks.

    ``window_sizes`` has one window for each head of MW-MHA, 0 = global; empty means plain
    self-attention.
    """

    width: Width
    depth: Depth
    heads: Heads
    mlp_ratio: Ratio = 4.0
    window_sizes: WindowSizes = ()
    shift_windows: bool = False

    def __post_init__(self) -> None:
        width, heads, windows = self.width, self.heads, self.window_sizes
        _require(width % heads == 0, f"width {width} is not divisible by {heads} heads")
        _require(len(windows) in (0, heads), f"{heads} heads, but {len(windows)} window_sizes")
        _require(bool(windows) or not self.shift_windows, "shift_windows needs window_sizes")


@configuration
class EncoderConfig(TransformerConfig):
    """The encoder; the paper's has no windows, and the plain MAE's a CLS token."""

    cls_token: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        # Half of the 2-D sin-cos positions are sines.
        _require(self.width % 4 == 0, f"encoder width {self.width} is not a multiple of 4")
        _require(not (self.cls_token and self.window_sizes), _CLS_TOKEN)


@configuration
class DecoderConfig(TransformerConfig):
    """The decoder of pretraining; the paper's has windows."""

    width: Width = 384
    depth: Depth = 4
    heads: Heads = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.width % 2 == 0, f"decoder width {self.width} is not even")


@configuration
class ModelConfig:
    """Encoder, decoder and front-end.

    ``to_dict``/``from_dict`` convert to the ``config.json`` of a model.
    """

    encoder: EncoderConfig
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    frontend: FrontendConfig = field(default_factory=FrontendConfig)
    input_frames: Frames = 200
    patch_size: PatchSize = (4, 16)
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.8
    norm_pix_loss: bool = False
    #: Statistics over the time steps in a scene: :data:`STATISTICS` joined by +.
    pooling: str = PAPERS_POOLING

    def __post_init__(self) -> None:
        parse_pooling(self.pooling)
        (frames, bands), length, n_mels = self.patch_size, self.input_frames, self.frontend.n_mels
        tiled = length % frames == 0 and n_mels % bands == 0
        kept = f"mask_ratio {self.mask_ratio} keeps {self.num_kept} of {self.num_tokens} tokens"
        _require(
            tiled, f"patches of {frames} x {bands} do not tile {length} frames x {n_mels} bands"
        )
        _require(0 < self.num_kept < self.num_tokens, kept)
        _require(not (self.encoder.cls_token and self.decoder.window_sizes), _CLS_TOKEN)
        _check_windows(self.encoder.window_sizes, self.num_tokens, "encoder")
        _check_windows(self.encoder.window_sizes, self.num_kept, "encoder (in pretraining)")
        _check_windows(self.decoder.window_sizes, self.num_tokens, "decoder")

    @property
    def grid_size(self) -> tuple[int, int]:
        """Patches along (time, frequency): (50, 5) in the paper's default."""
        frames, bands = self.patch_size
        return self.input_frames // frames, self.frontend.n_mels // bands

    @property
    def num_tokens(self) -> int:
        """Patches of one input, without a CLS token."""
        return self.grid_size[0] * self.grid_size[1]

    @property
    def num_kept(self) -> int:
        """Patches that the encoder sees in pretraining."""
        # round(): 250 * (1 - 0.8) is 49.99... in binary floating point.
        return int(round(self.num_tokens * (1 - self.mask_ratio), 6))

    @property
    def patch_dim(self) -> int:
        """Values in one patch: frames times bands times channels."""
        return self.patch_size[0] * self.patch_size[1] * self.frontend.channels

    @property
    def embedding_size(self) -> int:
        """Size of a timestamp embedding: bands of patches times encoder width."""
        return self.grid_size[1] * self.encoder.width

    @property
    def scene_embedding_size(self) -> int:
        """Size of a scene embedding: ``embedding_size`` times the statistics of ``pooling``."""
        return self.embedding_size * len(parse_pooling(self.pooling))

    @property
    def kind(self) -> str:
        """``"mwmae"`` when a window is in use anywhere, else ``"mae"``."""
        return "mwmae" if self.decoder.window_sizes or self.encoder.window_sizes else "mae"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready nested dictionary; tuples become lists."""
        return _ADAPTER.dump_python(self, mode="json")

    @classmethod
    def from_dict(cls, values: object) -> ModelConfig:
        """Inverse of ``to_dict``: a configuration from parsed JSON or TOML, which may be anything.

        Keys that are left out have their defaults. Raises HearMwmaeError, which names the key, on
        unknown keys, and on values of a wrong type or out of bounds.
        """
        try:
            return _ADAPTER.validate_json(json.dumps(values, default=str))
        except ValidationError as error:
            raise HearMwmaeError(invalid_value(error)) from error


_ADAPTER = TypeAdapter(ModelConfig)


def preset_names() -> list[str]:
    """``mwmae-tiny`` ... ``mwmae-huge`` and ``mae-tiny`` ... ``mae-huge``."""
    return [f"{kind}-{size}" for kind in ("mwmae", "mae") for size in ENCODER_SIZES]


def preset(name: str, patch_size: tuple[int, int] = (4, 16)) -> ModelConfig:
    """A model of the paper by name, such as ``"mwmae-base"``, with decoder windows derived from the
    patch count.

    Args:
        patch_size: (time frames, mel bands): the paper's, or another, as in its ablation.
    """
    names = preset_names()
    if name not in names:
        raise HearMwmaeError(f"unknown preset {name!r}; there are: {', '.join(names)}")
    kind, size = name.split("-")
    encoder = EncoderConfig(*ENCODER_SIZES[size], cls_token=kind == "mae")
    config = ModelConfig(encoder, patch_size=patch_size)
    if kind == "mae":
        return config
    windows = derive_window_sizes(config.num_tokens)
    decoder = DecoderConfig(heads=len(windows), window_sizes=windows)
    return dataclasses.replace(config, decoder=decoder)


def _check_windows(window_sizes: tuple[int, ...], num_tokens: int, what: str) -> None:
    bad = [w for w in window_sizes if w and num_tokens % w]
    _require(not bad, f"{what} windows {bad} do not divide its {num_tokens} tokens")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise HearMwmaeError(message)
