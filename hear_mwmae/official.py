"""Parameters of the authors' JAX/flax checkpoints -> this package's configuration and weights."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .config import ENCODER_SIZES, DecoderConfig, EncoderConfig, FrontendConfig, ModelConfig
from .errors import HearMwmaeError
from .flax_file import read_params

#: Heads of the authors' decoder without windows; the weights do not show them.
PLAIN_DECODER_HEADS = 8


def load_official(path: str | Path, encoder_heads: int | None = None) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Read one of the authors' checkpoints.

    Args:
        path: the file, or the directory around it. Of several ``checkpoint_<step>`` in a directory,
            the last step is read.
        encoder_heads: attention heads of the encoder, which the weights do not show. The default is
            the number of heads of the paper's size of the same width, else one head per 64
            channels, or three if 64 does not divide the width.

    Returns:
        The inferred configuration and the float32 weights of a `MaskedAutoencoder`, encoder and
        decoder.

    Raises:
        HearMwmaeError: the file is damaged, or not an MAE or MW-MAE. The message is one line.
    """
    try:
        params = read_params(Path(path))
        config = infer_config(params, encoder_heads)
        _check(params, parameter_shapes(config))
    except HearMwmaeError as error:
        raise HearMwmaeError(f"{path}: {error}") from error
    return config, convert_params(params)


def infer_config(params: dict[str, np.ndarray], encoder_heads: int | None = None) -> ModelConfig:
    """Size, patch, windows, CLS token and kind of model, inferred from the names and shapes of the
    parameters.
    """
    frontend = FrontendConfig()
    frames, bands, _, width = _shape(params, "patch_embed/proj/kernel", 4)
    _, positions, _ = _shape(params, "pos_embed", 3)
    decoder_width = _shape(params, "decoder_embed/kernel", 2)[1]
    cls_token = "cls_token" in params
    tokens = positions - cls_token
    if frontend.n_mels % bands or tokens % (frontend.n_mels // bands):
        raise HearMwmaeError(f"{tokens} positions do not fit patches of {frames} x {bands} on {frontend.n_mels} mel bands")

    heads = encoder_heads or _heads_of_width(width)
    encoder_windows = _window_sizes(params, "encoder_block_00", width, heads)
    decoder_windows = _window_sizes(params, "decoder_block_00", decoder_width, None)
    if encoder_heads and encoder_windows and len(encoder_windows) != encoder_heads:
        raise HearMwmaeError(f"the encoder has {len(encoder_windows)} heads with windows {encoder_windows}, not {encoder_heads}")
    return ModelConfig(
        encoder=EncoderConfig(
            width,
            _depth(params, "encoder_block_"),
            len(encoder_windows) or heads,
            mlp_ratio=_shape(params, "encoder_block_00/Mlp_0/Dense_0/kernel", 2)[1] / width,
            cls_token=cls_token,
            window_sizes=encoder_windows,
        ),
        decoder=DecoderConfig(
            decoder_width,
            _depth(params, "decoder_block_"),
            len(decoder_windows) or math.gcd(PLAIN_DECODER_HEADS, decoder_width),
            mlp_ratio=_shape(params, "decoder_block_00/Mlp_0/Dense_0/kernel", 2)[1] / decoder_width,
            window_sizes=decoder_windows,
        ),
        frontend=frontend,
        input_frames=tokens // (frontend.n_mels // bands) * frames,
        patch_size=(frames, bands),
    )


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Path and shape of every parameter of such a model in the authors' code."""
    encoder, decoder, rows = config.encoder, config.decoder, config.num_tokens + config.encoder.cls_token
    shapes = {
        "patch_embed/proj/kernel": (*config.patch_size, config.frontend.channels, encoder.width),
        "patch_embed/proj/bias": (encoder.width,),
        "pos_embed": (1, rows, encoder.width),
        "mask_token": (1, 1, decoder.width),
        "decoder_pos_embed": (1, rows, decoder.width),
    }
    if encoder.cls_token:
        shapes["cls_token"] = (1, 1, encoder.width)
    dense = {"decoder_embed": (encoder.width, decoder.width), "decoder_pred": (decoder.width, config.patch_dim)}
    norms = {"encoder_norm": encoder.width, "decoder_norm": decoder.width}
    for part, stack in (("encoder", encoder), ("decoder", decoder)):
        width, hidden = stack.width, int(stack.width * stack.mlp_ratio)
        qkv = "wmha_block/qkv" if stack.window_sizes else "Attention_0/Dense_0"
        proj = "wmha_block/proj" if stack.window_sizes else "Attention_0/Dense_1"
        for block in (f"{part}_block_{number:02d}" for number in range(stack.depth)):
            norms |= {f"{block}/LayerNorm_0": width, f"{block}/LayerNorm_1": width}
            dense |= {f"{block}/{qkv}": (width, 3 * width), f"{block}/{proj}": (width, width)}
            dense |= {f"{block}/Mlp_0/Dense_0": (width, hidden), f"{block}/Mlp_0/Dense_1": (hidden, width)}
            for head, w in enumerate(stack.window_sizes):
                if w:
                    shapes[f"{block}/wmha_block/attn_heads_{head}/relative_position_bias_table"] = (2 * w - 1, 1)
    for path, shape in dense.items():
        shapes |= {f"{path}/kernel": shape, f"{path}/bias": shape[1:]}
    for path, width in norms.items():
        shapes |= {f"{path}/scale": (width,), f"{path}/bias": (width,)}
    return shapes


def state_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight of a `MaskedAutoencoder`, without building one."""
    return {_rename(path): _torch_shape(path, shape) for path, shape in parameter_shapes(config).items()}


def convert_params(params: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Rename and transpose flax parameters to a `MaskedAutoencoder` state dict, float32."""
    return {_rename(path): _tensor(path, value) for path, value in params.items()}


_RENAMES = [
    (r"^patch_embed/proj/", "encoder.patch_embed."),
    (r"^(pos_embed|cls_token)$", r"encoder.\1"),
    (r"^(mask_token|decoder_pos_embed)$", r"decoder.\1"),
    (r"^(encoder|decoder)_norm/", r"\1.norm."),
    (r"^(decoder_(?:embed|pred))/", r"decoder.\1."),
    (r"^(encoder|decoder)_block_0*(\d+)/", r"\1.blocks.\2."),
    (r"LayerNorm_0/", "norm1."),
    (r"LayerNorm_1/", "norm2."),
    (r"Attention_0/Dense_0/", "attn.qkv."),
    (r"Attention_0/Dense_1/", "attn.proj."),
    (r"wmha_block/attn_heads_(\d+)/relative_position_bias_table$", r"attn.relative_position_bias_table.\1"),
    (r"wmha_block/(qkv|proj)/", r"attn.\1."),
    (r"Mlp_0/Dense_0/", "mlp.fc1."),
    (r"Mlp_0/Dense_1/", "mlp.fc2."),
    (r"(kernel|scale)$", "weight"),
]


def _rename(path: str) -> str:
    for pattern, replacement in _RENAMES:
        path = re.sub(pattern, replacement, path)
    return path


def _torch_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if path.endswith("kernel"):  # (in, out) of a dense layer; (p, q, 1, out) of the patch convolution
        return shape[-1], math.prod(shape[:-1])
    return shape[:1] if path.endswith("relative_position_bias_table") else shape


def _tensor(path: str, value: np.ndarray) -> Tensor:
    value = np.array(value, dtype=np.float32)  # a copy: the buffer of what was read is not writable
    shape = _torch_shape(path, value.shape)
    value = value.reshape(shape[::-1]).T if path.endswith("kernel") else value.reshape(shape)
    return torch.from_numpy(np.ascontiguousarray(value))


def _window_sizes(params: dict[str, np.ndarray], block: str, width: int, likely: int | None) -> tuple[int, ...]:
    """Window of each head from its bias table (2w - 1 rows); () for a block of plain attention.

    Global heads have no table, so global heads after the last table cannot be counted. The first
    fitting number of heads is taken: ``likely``; then two global heads, as in the paper, one, or
    none; then any divisor of the width.
    """
    # At most nine digits: int() refuses thousands of them.
    pattern = re.compile(re.escape(block) + r"/wmha_block/attn_heads_(\d{1,9})/relative_position_bias_table")
    tables = {int(m[1]): path for path in params if (m := pattern.fullmatch(path))}
    windows = {head: (_shape(params, path, 2)[0] + 1) // 2 for head, path in tables.items()}
    if not windows:
        heads = likely or math.gcd(PLAIN_DECODER_HEADS, width)
        return (0,) * heads if f"{block}/wmha_block/qkv/kernel" in params else ()
    fewest, windowed = max(windows) + 1, len(windows)
    guesses = (likely or 0, windowed + 2, windowed + 1, *range(fewest, width + 1))
    count = next((n for n in guesses if n >= fewest and width % n == 0), None)
    if count is None:
        raise HearMwmaeError(f"{block} has a window for head {max(windows)}, but {width} channels only")
    return tuple(windows.get(head, 0) for head in range(count))


def _heads_of_width(width: int) -> int:
    for known_width, _, heads in ENCODER_SIZES.values():
        if width == known_width:
            return heads
    return width // 64 if width % 64 == 0 else math.gcd(width, 3)


def describe_heads(config: ModelConfig, encoder_heads: int | None = None) -> str:
    """How many attention heads `load_official` took, and why: the weights do not show plain and
    global heads.
    """
    encoder, decoder = config.encoder, config.decoder
    if encoder_heads:
        how = "as given"
    elif encoder.width in {width for width, _, _ in ENCODER_SIZES.values()}:
        how = f"the paper's for a width of {encoder.width}"
    else:
        how = "guessed from the width; --encoder-heads says otherwise"
    traced = sum(map(bool, decoder.window_sizes))
    rest = f"{traced} with windows, {decoder.heads - traced} global ones guessed" if traced else "guessed, the authors' number"
    return f"encoder heads {encoder.heads} ({how}), decoder heads {decoder.heads} ({rest})"


def _depth(params: dict[str, np.ndarray], prefix: str) -> int:
    return len({path.split("/")[0] for path in params if path.startswith(prefix)})


def _shape(params: dict[str, np.ndarray], path: str, ndim: int) -> tuple[int, ...]:
    if path not in params:
        raise HearMwmaeError(f"no checkpoint of MAE or MW-MAE: parameter {path!r} is missing")
    if params[path].ndim != ndim:
        raise HearMwmaeError(f"parameter {path!r} should have {ndim} dimensions, has shape {params[path].shape}")
    return params[path].shape


def _check(params: dict[str, np.ndarray], expected: dict[str, tuple[int, ...]]) -> None:
    problems = [f"parameter {path!r} is missing" for path in expected if path not in params]
    problems += [f"parameter {path!r:.100} is unknown" for path in params if path not in expected]
    for path, value in params.items():
        if path in expected and value.shape != expected[path]:
            problems.append(f"parameter {path!r} has shape {value.shape} instead of {expected[path]}")
        elif not np.isfinite(value).all():
            problems.append(f"parameter {path!r:.100} holds values that are not finite")
    if problems:
        more = f" (and {len(problems) - 1} more such problems)" if len(problems) > 1 else ""
        raise HearMwmaeError(f"no checkpoint of MAE or MW-MAE: {problems[0]}{more}")
