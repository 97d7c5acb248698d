"""Configuration of a model: frozen dataclasses, the paper's presets by name, and a strict JSON
round trip.

Source of all numbers: "Masked Autoencoders with Multi-Window Local-Global Attention Are Better
Audio Learners" (arXiv 2306.00561) and the authors' code.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from .config_fields import check_fields, from_plain, to_plain
from .errors import HearMwmaeError, did_you_mean

__all__ = [
    "DECODER_WIDTH",
    "ENCODER_SIZES",
    "PATCH_SIZES",
    "STATISTICS",
    "DecoderConfig",
    "EncoderConfig",
    "FrontendConfig",
    "ModelConfig",
    "derive_window_sizes",
    "parse_pooling",
    "preset",
    "preset_names",
]

#: name -> (width, depth, heads)
ENCODER_SIZES = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "medium": (512, 12, 8),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}
#: (time frames, mel bands): the paper's default first, then the sizes of its ablation.
PATCH_SIZES = ((4, 16), (8, 16), (8, 8), (4, 8), (5, 5))
DECODER_WIDTH, DECODER_DEPTH, DECODER_HEADS = 384, 4, 8
#: Hidden units of a block, patches of an input, weights of a model (40 GB in float32).
LARGEST_HIDDEN, MOST_TOKENS, MOST_PARAMETERS = 131_072, 65_536, 10_000_000_000
#: Windows of a front-end.
MOST_CHANNELS = 8
#: Statistics over time that a pooling joins by "+".
STATISTICS = ("mean", "std", "max")
PAPERS_POOLING = "mean"


def derive_window_sizes(num_tokens: int) -> tuple[int, ...]:
    """The paper's rule for MW-MHA: one head per divisor of ``num_tokens`` in 2..num_tokens-1, then
    two global heads.

    A window size of 0 means global attention. 250 tokens give (2, 5, 10, 25, 50, 125, 0, 0).
    """
    if num_tokens < 2:
        raise HearMwmaeError(f"window sizes need at least 2 tokens, got {num_tokens}")
    return (*(w for w in range(2, num_tokens) if num_tokens % w == 0), 0, 0)


def describe_windows(window_sizes: tuple[int, ...]) -> str:
    """``(2, 5, 0)`` -> ``"2, 5, global"``; without sizes all heads are global."""
    return ", ".join(str(w) if w else "global" for w in window_sizes) or "global"


def parse_pooling(pooling: object) -> tuple[str, ...]:
    """``"mean+std"`` -> ``("mean", "std")``.

    Raises HearMwmaeError on anything but distinct names of :data:`STATISTICS`.
    """
    names = tuple(pooling.split("+")) if isinstance(pooling, str) else ()
    if not names or set(names) - set(STATISTICS) or len(set(names)) < len(names):
        raise HearMwmaeError(f"pooling must be one or more of {', '.join(STATISTICS)}, joined by +, got {pooling!r:.100}")
    return names


@dataclass(frozen=True)
class FrontendConfig:
    """Log-mel front-end: 25 ms windows every 10 ms, 16 kHz, 80 HTK mel bands, natural logarithm.

    Several ``win_lengths`` give several log-mel spectrograms of the same frames and bands, one
    input channel each: a long window resolves pitch, a short one onsets. The paper has one.
    """

    sample_rate: int = 16000
    win_lengths: tuple[int, ...] = (400,)  # samples; each window has an FFT of its own length
    hop_length: int = 160
    n_mels: int = 80
    f_min: float = 50.0
    f_max: float = 8000.0
    log_offset: float = 1.1920929e-07  # float32 machine epsilon: the floor of the logarithm

    def __post_init__(self) -> None:
        check_fields(self)
        if not 1 <= len(self.win_lengths) <= MOST_CHANNELS or min(self.win_lengths) < 2:
            raise HearMwmaeError(
                f"win_lengths must be 1 to {MOST_CHANNELS} windows of at least 2 samples, got {list(self.win_lengths)}"
            )
        if not 0 <= self.f_min < self.f_max <= self.sample_rate / 2:
            raise HearMwmaeError(
                f"mel range {self.f_min}-{self.f_max} Hz must lie within 0 and half the sample rate, {self.sample_rate / 2} Hz"
            )
        if not 0 < self.log_offset <= 1:
            raise HearMwmaeError(f"log_offset must lie above 0 and not above 1, got {self.log_offset}")
        if self.hop_length > min(self.win_lengths):
            raise HearMwmaeError(f"hop_length {self.hop_length} leaves gaps between windows of {min(self.win_lengths)}")

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


@dataclass(frozen=True)
class EncoderConfig:
    """Pre-norm vision transformer.

    Empty ``window_sizes`` means plain self-attention, as in the paper's encoder.
    """

    width: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    cls_token: bool = False
    window_sizes: tuple[int, ...] = ()
    shift_windows: bool = False

    def __post_init__(self) -> None:
        _check_transformer(self, "encoder")
        if self.width % 4:
            raise HearMwmaeError(f"encoder width {self.width} must be a multiple of 4 for the 2-D sin-cos positions")
        if self.cls_token and self.window_sizes:
            raise HearMwmaeError("encoder windows cannot be combined with a CLS token: it belongs to no window")


@dataclass(frozen=True)
class DecoderConfig:
    """Decoder of pretraining: MW-MHA (one window size per head, 0 = global), or plain
    self-attention without sizes.
    """

    width: int = DECODER_WIDTH
    depth: int = DECODER_DEPTH
    heads: int = DECODER_HEADS
    mlp_ratio: float = 4.0
    window_sizes: tuple[int, ...] = ()
    shift_windows: bool = False

    def __post_init__(self) -> None:
        _check_transformer(self, "decoder")
        if self.width % 2:
            raise HearMwmaeError(f"decoder width {self.width} must be even for the 1-D sin-cos positions")


@dataclass(frozen=True)
class ModelConfig:
    """Encoder, decoder and front-end.

    ``to_dict``/``from_dict`` convert to the ``config.json`` of a checkpoint.
    """

    encoder: EncoderConfig
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    frontend: FrontendConfig = field(default_factory=FrontendConfig)
    input_frames: int = 200
    patch_size: tuple[int, int] = (4, 16)
    mask_ratio: float = 0.8
    norm_pix_loss: bool = False
    #: Statistics over the time steps in a scene: :data:`STATISTICS` joined by +. Older
    #: configurations lack it.
    pooling: str = field(default=PAPERS_POOLING, metadata={"optional": True})

    def __post_init__(self) -> None:
        check_fields(self)
        parse_pooling(self.pooling)
        if len(self.patch_size) != 2 or min(self.patch_size) < 1:
            raise HearMwmaeError(f"patch_size must be (time frames, mel bands), both above 0, got {self.patch_size}")
        (frames, bands), n_mels = self.patch_size, self.frontend.n_mels
        if (tokens := self.input_frames // frames * (n_mels // bands)) > MOST_TOKENS:
            raise HearMwmaeError(
                f"input_frames {self.input_frames} in patches of {frames} x {bands} are {tokens} tokens, above {MOST_TOKENS}"
            )
        if (parameters := self._roughly_parameters()) > MOST_PARAMETERS:
            raise HearMwmaeError(f"this is a model of {parameters / 1e9:.1f} billion parameters, above {MOST_PARAMETERS / 1e9:g}")
        if self.input_frames % frames or n_mels % bands:
            raise HearMwmaeError(
                f"patches of {frames} x {bands} do not tile the input of {self.input_frames} frames x {n_mels} mel bands"
            )
        if not 0 < self.mask_ratio < 1:
            raise HearMwmaeError(f"mask_ratio must lie between 0 and 1, got {self.mask_ratio}")
        if not 0 < self.num_kept < self.num_tokens:
            raise HearMwmaeError(f"mask_ratio {self.mask_ratio} keeps {self.num_kept} of the {self.num_tokens} tokens")
        if self.encoder.cls_token and self.decoder.window_sizes:
            raise HearMwmaeError("a windowed decoder cannot be combined with a CLS token: it belongs to no window")
        _check_windows(self.encoder.window_sizes, self.num_tokens, "encoder")
        _check_windows(self.encoder.window_sizes, self.num_kept, "encoder (in pretraining)")
        _check_windows(self.decoder.window_sizes, self.num_tokens, "decoder")

    def _roughly_parameters(self) -> float:
        """Parameters in the matrices of the blocks and in the position tables: 99.9 % of a large
        model.
        """
        blocks = sum(
            part.depth * (4 * part.width**2 + 2 * part.width * int(part.width * part.mlp_ratio))
            for part in (self.encoder, self.decoder)
        )
        return blocks + self.num_tokens * (self.encoder.width + self.decoder.width)

    @property
    def grid_size(self) -> tuple[int, int]:
        """Patches along (time, frequency): (50, 5) in the paper's default."""
        return self.input_frames // self.patch_size[0], self.frontend.n_mels // self.patch_size[1]

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

    def to_dict(self) -> dict:
        """JSON-ready nested dictionary; tuples become lists."""
        return {name: to_plain(value) for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: object) -> ModelConfig:
        """Inverse of ``to_dict``.

        Raises HearMwmaeError on unknown or missing keys and on values of a wrong type.
        """
        if isinstance(values, dict) and isinstance(frontend := values.get("frontend"), dict) and "n_fft" in frontend:
            rest = {name: value for name, value in frontend.items() if name not in ("n_fft", "win_length")}
            values = {**values, "frontend": {**rest, "win_lengths": [frontend.get("win_length")]}}
        return from_plain(cls, values, "config")


def preset_names() -> list[str]:
    """``mwmae-tiny`` ... ``mwmae-huge`` and ``mae-tiny`` ... ``mae-huge``."""
    return [f"{kind}-{size}" for kind in ("mwmae", "mae") for size in ENCODER_SIZES]


def preset(name: str, patch_size: tuple[int, int] = (4, 16)) -> ModelConfig:
    """A model of the paper by name, such as ``"mwmae-base"``, with decoder windows derived from the
    patch count.
    """
    if name not in preset_names():
        raise HearMwmaeError(
            f"unknown preset {name!r}{did_you_mean(str(name), preset_names())}; there are: {', '.join(preset_names())}"
        )
    kind, size = name.split("-")
    width, depth, heads = ENCODER_SIZES[size]
    config = ModelConfig(EncoderConfig(width, depth, heads, cls_token=kind == "mae"), patch_size=patch_size)
    if kind == "mae":
        return config
    windows = derive_window_sizes(config.num_tokens)
    return dataclasses.replace(config, decoder=DecoderConfig(heads=len(windows), window_sizes=windows))


def _check_transformer(config: EncoderConfig | DecoderConfig, what: str) -> None:
    check_fields(config)
    if config.width % config.heads:
        raise HearMwmaeError(f"{what} width {config.width} is not divisible by {config.heads} heads")
    if not 1 <= config.width * config.mlp_ratio <= LARGEST_HIDDEN:
        raise HearMwmaeError(
            f"{what} mlp_ratio {config.mlp_ratio} gives a hidden layer of {config.width * config.mlp_ratio:g} units, "
            f"which must lie between 1 and {LARGEST_HIDDEN}"
        )
    if config.window_sizes and len(config.window_sizes) != config.heads:
        raise HearMwmaeError(
            f"{what} has {config.heads} heads but {len(config.window_sizes)} window sizes {list(config.window_sizes)}"
        )
    if config.shift_windows and not config.window_sizes:
        raise HearMwmaeError(f"{what} shift_windows needs window_sizes")


def _check_windows(window_sizes: tuple[int, ...], num_tokens: int, what: str) -> None:
    bad = [w for w in window_sizes if w < 0 or w > num_tokens or (w and num_tokens % w)]
    if bad:
        raise HearMwmaeError(f"{what} windows {bad} do not divide its {num_tokens} tokens")
