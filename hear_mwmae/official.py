"""The authors' JAX/flax checkpoints -> this package's configuration and weights, with msgpack and numpy alone.

Two containers are read: flax's legacy file (one msgpack map) and a directory that holds such a map in a file named
``checkpoint`` (orbax's aggregate file). Nothing is unpickled; the optimiser's state is skipped.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import msgpack
import numpy as np
import torch
from torch import Tensor

from .config import (
    ENCODER_SIZES,
    DecoderConfig,
    EncoderConfig,
    FrontendConfig,
    ModelConfig,
    derive_window_sizes,
)

#: Heads of the authors' plain MAE decoder; it leaves no trace in the weights.
MAE_DECODER_HEADS = 8

_NDARRAY, _NATIVE_COMPLEX, _NUMPY_SCALAR = 1, 2, 3  # flax.serialization's msgpack extension types
_CHUNKED = "__msgpack_chunked_array__"


def is_official_checkpoint(path: Path) -> bool:
    """Whether ``path`` looks like one of the authors' checkpoints: a msgpack map, or a directory with one."""
    file = path / "checkpoint" if path.is_dir() else path
    if not file.is_file():
        return False
    with open(file, "rb") as stream:
        first = stream.read(1)
    # A msgpack map of a training state: fixmap (0x80-0x8f), map16 or map32.
    return bool(first) and (0x80 <= first[0] <= 0x8F or first[0] in (0xDE, 0xDF)) and not _is_pickle(file)


def load_official(path: str | Path, encoder_heads: int | None = None) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Read one of the authors' checkpoints.

    Args:
        path: the file, or the directory around it.
        encoder_heads: attention heads of the encoder, which leave no trace in the weights. Without it: those of the paper's
            size of the same width; else one head per 64 channels, and three where that does not divide the width.

    Returns:
        The inferred configuration and the float32 weights of a whole `MaskedAutoencoder`.
    """
    params = read_params(Path(path))
    config = infer_config(params, encoder_heads)
    return config, convert_params(params)


def read_params(path: Path) -> dict[str, np.ndarray]:
    """The flat ``params`` collection: ``"encoder_block_00/Mlp_0/Dense_0/kernel" -> array``."""
    file = path / "checkpoint" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{path} holds no flax checkpoint: expected a file, or a directory with a file named 'checkpoint'")
    state = _unpack_state(file)
    params = state.get("params")
    if isinstance(params, dict) and set(params) == {"params"}:
        params = params["params"]
    if not isinstance(params, dict):
        raise ValueError(f"{file} has no 'params'; it holds {sorted(map(str, state))}")
    return dict(_flatten(params))


def infer_config(params: dict[str, np.ndarray], encoder_heads: int | None = None) -> ModelConfig:
    """Size, patch, windows, CLS token and kind of model, read off the names and shapes of the parameters."""
    frontend = FrontendConfig()
    frames, bands, _, width = _shape(params, "patch_embed/proj/kernel", 4)
    _, positions, _ = _shape(params, "pos_embed", 3)
    decoder_width = _shape(params, "decoder_embed/kernel", 2)[1]
    cls_token = "cls_token" in params
    tokens = positions - cls_token
    if frontend.n_mels % bands or tokens % (frontend.n_mels // bands):
        raise ValueError(f"{tokens} positions do not fit patches of {frames} x {bands} on {frontend.n_mels} mel bands")

    encoder_windows = _window_sizes(params, "encoder_block_00", tokens, encoder_heads)
    decoder_windows = _window_sizes(params, "decoder_block_00", tokens, None)
    heads = len(encoder_windows) or encoder_heads or _heads_of_width(width)
    return ModelConfig(
        encoder=EncoderConfig(
            width,
            _depth(params, "encoder_block_"),
            heads,
            mlp_ratio=_shape(params, "encoder_block_00/Mlp_0/Dense_0/kernel", 2)[1] / width,
            cls_token=cls_token,
            window_sizes=encoder_windows,
        ),
        decoder=DecoderConfig(
            decoder_width,
            _depth(params, "decoder_block_"),
            len(decoder_windows) or MAE_DECODER_HEADS,
            mlp_ratio=_shape(params, "decoder_block_00/Mlp_0/Dense_0/kernel", 2)[1] / decoder_width,
            window_sizes=decoder_windows,
        ),
        frontend=frontend,
        input_frames=tokens // (frontend.n_mels // bands) * frames,
        patch_size=(frames, bands),
    )


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
    name = path
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    if "/" in name:
        raise ValueError(f"unknown parameter {path!r}: this is not a checkpoint of MAE or MW-MAE")
    return name


def _tensor(path: str, value: np.ndarray) -> Tensor:
    value = np.array(value, dtype=np.float32)  # a copy: the file's buffer is read-only
    if path.endswith("kernel"):  # (in, out) of a dense layer; (p, q, 1, out) of the patch convolution
        value = value.reshape(-1, value.shape[-1]).T
    elif path.endswith("relative_position_bias_table"):
        value = value[:, 0]
    return torch.from_numpy(np.ascontiguousarray(value))


def _window_sizes(params: dict[str, np.ndarray], block: str, tokens: int, heads: int | None) -> tuple[int, ...]:
    """Window of each head from its bias table (2w - 1 rows). Global heads have no table: two follow the last one."""
    pattern = re.compile(re.escape(block) + r"/wmha_block/attn_heads_(\d+)/relative_position_bias_table")
    windows = {int(m[1]): (len(value) + 1) // 2 for path, value in params.items() if (m := pattern.fullmatch(path))}
    if not windows:
        # All heads may be global: then the rule can only have given two of them.
        return (0, 0) if f"{block}/wmha_block/qkv/kernel" in params else ()
    count = heads or max(windows) + 1 + derive_window_sizes(tokens).count(0)
    return tuple(windows.get(head, 0) for head in range(count))


def _heads_of_width(width: int) -> int:
    for known_width, _, heads in ENCODER_SIZES.values():
        if width == known_width:
            return heads
    return width // 64 if width % 64 == 0 else math.gcd(width, 3)


def _depth(params: dict[str, np.ndarray], prefix: str) -> int:
    return len({path.split("/")[0] for path in params if path.startswith(prefix)})


def _shape(params: dict[str, np.ndarray], path: str, ndim: int) -> tuple[int, ...]:
    if path not in params:
        raise ValueError(f"parameter {path!r} is missing: this is not a checkpoint of MAE or MW-MAE")
    if params[path].ndim != ndim:
        raise ValueError(f"parameter {path!r} should have {ndim} dimensions, has shape {params[path].shape}")
    return params[path].shape


def _flatten(tree: dict, prefix: str = "") -> list[tuple[str, np.ndarray]]:
    leaves = []
    for key, value in tree.items():
        if isinstance(value, dict) and _CHUNKED in value:
            leaves.append((prefix + str(key), _join_chunks(value)))
        elif isinstance(value, dict):
            leaves += _flatten(value, f"{prefix}{key}/")
        elif isinstance(value, np.ndarray):
            leaves.append((prefix + str(key), value))
        else:
            raise ValueError(f"parameter {prefix}{key} is {value!r}, not an array: it may be stored in another file")
    return leaves


def _join_chunks(node: dict) -> np.ndarray:
    """Flax cuts arrays above 2^30 bytes: {shape: {"0": ...}, chunks: {"0": flat array, ...}}."""
    chunks = [node["chunks"][key] for key in sorted(node["chunks"], key=int)]
    shape = [int(node["shape"][key]) for key in sorted(node["shape"], key=int)]
    return np.concatenate(chunks).reshape(shape)


def _unpack_state(file: Path) -> dict:
    """The top-level map with opt_state skipped, not decoded: it is twice the size of the weights."""
    state = {}
    try:
        with open(file, "rb") as stream:
            unpacker = msgpack.Unpacker(stream, ext_hook=_unpack_ext, raw=False, strict_map_key=False, max_buffer_size=2**32 - 1)
            for _ in range(unpacker.read_map_header()):
                key = unpacker.unpack()
                if key == "opt_state":
                    unpacker.skip()
                else:
                    state[key] = unpacker.unpack()
    except (msgpack.exceptions.UnpackException, ValueError, EOFError) as error:
        raise ValueError(f"{file} is not a readable flax checkpoint (damaged or truncated): {error}") from error
    return state


def _unpack_ext(code: int, data: bytes) -> object:
    if code in (_NDARRAY, _NUMPY_SCALAR):
        shape, dtype, buffer = msgpack.unpackb(data, raw=False)
        return _array(tuple(shape), dtype, buffer)
    if code == _NATIVE_COMPLEX:
        return complex(*msgpack.unpackb(data))
    raise ValueError(f"unknown msgpack extension type {code}")


def _array(shape: tuple[int, ...], dtype: str, buffer: bytes) -> np.ndarray:
    if dtype in ("bfloat16", "V2"):  # numpy has none: the upper half of a float32
        bits = np.frombuffer(buffer, np.uint16).astype(np.uint32) << 16
        return bits.view(np.float32).reshape(shape)
    kind = np.dtype(dtype)
    if kind.hasobject:
        raise ValueError(f"array of dtype {dtype} in a checkpoint")
    return np.frombuffer(buffer, kind).reshape(shape)


def _is_pickle(file: Path) -> bool:
    """A pickle of protocol 2 and above also starts with 0x80, then its protocol and an opcode; a map's key is a string."""
    with open(file, "rb") as stream:
        head = stream.read(2)
    return head[:1] == b"\x80" and len(head) == 2 and head[1] <= 5
