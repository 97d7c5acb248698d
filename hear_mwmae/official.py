"""Checkpoints of the authors' JAX code -> this package's configuration and weights.

Two containers are known: flax's legacy file (one msgpack map), and the directory of orbax (2023),
which has such a map in a file named ``checkpoint``. They are read with msgpack and numpy alone:
nothing is unpickled, and only the parameters are decoded.
"""

import math
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .config import ENCODER_SIZES, DecoderConfig, EncoderConfig, FrontendConfig, ModelConfig
from .errors import HearMwmaeError, needs_extra, reason

#: Heads of the authors' decoder without windows; the weights do not show them.
PLAIN_DECODER_HEADS = 8

#: Of flax's names, as regular expressions, to those of a `MaskedAutoencoder`.
RENAMES = {
    r"^patch_embed/proj/": "encoder.patch_embed.",
    r"^(pos_embed|cls_token)$": r"encoder.\1",
    r"^(mask_token|decoder_pos_embed)$": r"decoder.\1",
    r"^(encoder|decoder)_norm/": r"\1.norm.",
    r"^(decoder_(?:embed|pred))/": r"decoder.\1.",
    r"^(encoder|decoder)_block_0*(\d+)/": r"\1.blocks.\2.",
    r"LayerNorm_0/": "norm1.",
    r"LayerNorm_1/": "norm2.",
    r"Attention_0/Dense_0/": "attn.qkv.",
    r"Attention_0/Dense_1/": "attn.proj.",
    r"wmha_block/attn_heads_(\d+)/(relative_position_bias_table)$": r"attn.\2.\1",
    r"wmha_block/(qkv|proj)/": r"attn.\1.",
    r"Mlp_0/Dense_0/": "mlp.fc1.",
    r"Mlp_0/Dense_1/": "mlp.fc2.",
    r"(kernel|scale)$": "weight",
}

#: Of the weights in these checkpoints.
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

Params = dict[str, np.ndarray]


def is_checkpoint(path: Path) -> bool:
    """Whether ``path`` looks like one of the authors' checkpoints."""
    file = _locate(path)
    if file is None:
        return False
    with open(file, "rb") as stream:
        first = stream.read(1)
    # A msgpack map: fixmap, map16 or map32. Pickles begin like an empty one, 0x80.
    return b"\x81" <= first <= b"\x8f" or first in (b"\xde", b"\xdf")


def load_official(
    path: str | Path, encoder_heads: int | None = None
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Read one of the authors' checkpoints: its configuration, inferred, and its float32 weights,
    by the names of a `MaskedAutoencoder`.

    Raises HearMwmaeError, one line, if the file is damaged or no MAE or MW-MAE. Whether weights are
    missing shows when they are loaded.

    Args:
        path: the file, or the directory around it. Of several ``checkpoint_<step>`` in a directory,
            the last step is read.
        encoder_heads: attention heads of the encoder, which the weights do not show. The default is
            the number of heads of the paper's size of the same width, else one per 64 channels,
            or three if 64 does not divide the width.
    """
    try:
        params = read_params(Path(path))
        return infer_config(params, encoder_heads), convert_params(params)
    except (HearMwmaeError, OSError) as error:
        raise HearMwmaeError(f"{path}: {reason(error)}") from error


def infer_config(params: Params, encoder_heads: int | None = None) -> ModelConfig:
    """Size, patch, windows, CLS token and kind of model, from names and shapes of parameters."""
    frontend = FrontendConfig()
    frames, bands, _, width = _shape(params, "patch_embed/proj/kernel", 4)
    tokens = _shape(params, "pos_embed", 3)[1] - ("cls_token" in params)
    decoder_width = _shape(params, "decoder_embed/kernel", 2)[1]
    rows = frontend.n_mels // bands
    if frontend.n_mels % bands or tokens % rows:
        raise HearMwmaeError(
            f"{tokens} positions do not fit patches of {frames} x {bands} on {frontend.n_mels} mel "
            "bands"
        )
    papers_heads = {width: heads for width, _, heads in ENCODER_SIZES.values()}
    likely = width // 64 if width % 64 == 0 else math.gcd(width, 3)
    heads = encoder_heads or papers_heads.get(width, likely)
    encoder_windows = _window_sizes(params, "encoder", heads)
    decoder_windows = _window_sizes(params, "decoder", None)
    encoder = EncoderConfig(
        width,
        _depth(params, "encoder"),
        len(encoder_windows) or heads,
        mlp_ratio=_shape(params, "encoder_block_00/Mlp_0/Dense_0/kernel", 2)[1] / width,
        cls_token="cls_token" in params,
        window_sizes=encoder_windows,
    )
    decoder = DecoderConfig(
        decoder_width,
        _depth(params, "decoder"),
        len(decoder_windows) or PLAIN_DECODER_HEADS,
        mlp_ratio=_shape(params, "decoder_block_00/Mlp_0/Dense_0/kernel", 2)[1] / decoder_width,
        window_sizes=decoder_windows,
    )
    length = tokens // rows * frames
    return ModelConfig(encoder, decoder, frontend, length, patch_size=(frames, bands))


def convert_params(params: Params) -> dict[str, Tensor]:
    """Rename and transpose flax parameters to the state dict of a `MaskedAutoencoder`, float32."""
    state = {}
    for path, array in params.items():
        value = array
        if path.endswith("kernel"):  # (in, out), or (p, q, 1, out) of the patch convolution
            value = array.reshape(-1, *array.shape[-1:]).T
        elif path.endswith("relative_position_bias_table"):
            value = array.reshape(-1)
        name = path
        for pattern, replacement in RENAMES.items():
            name = re.sub(pattern, replacement, name)
        state[name] = torch.from_numpy(np.ascontiguousarray(value))
    return state


def _window_sizes(params: Params, part: str, heads: int | None) -> tuple[int, ...]:
    """Window of each head from its bias table (2w - 1 rows); () for a block of plain attention.

    Global heads have no table: without ``heads`` there are two, as in the paper.
    """
    block = f"{part}_block_00/wmha_block"
    table = re.compile(rf"{block}/attn_heads_(\d{{1,3}})/relative_position_bias_table")
    windows = {}
    for path in params:
        if found := table.fullmatch(path):
            windows[int(found[1])] = (_shape(params, path, 2)[0] + 1) // 2
    if f"{block}/qkv/kernel" not in params:
        return ()
    count = max(heads or len(windows) + 2, max(windows, default=0) + 1)
    return tuple(windows.get(head, 0) for head in range(count))


def _depth(params: Params, part: str) -> int:
    return len({path.split("/")[0] for path in params if path.startswith(f"{part}_block_")})


def _shape(params: Params, path: str, ndim: int) -> tuple[int, ...]:
    if path not in params:
        raise HearMwmaeError(f"no checkpoint of MAE or MW-MAE: parameter {path!r} is missing")
    shape = params[path].shape
    if len(shape) != ndim:
        raise HearMwmaeError(f"parameter {path!r} should have {ndim} dimensions, has shape {shape}")
    return shape


def read_params(path: Path) -> Params:
    """The parameters by path: ``"encoder_block_00/Mlp_0/Dense_0/kernel" -> array``."""
    file = _locate(path)
    if file is None:
        raise HearMwmaeError(
            "no flax checkpoint: expected a file, or a directory with a 'checkpoint' or "
            "'checkpoint_<step>' in it"
        )
    collections = _unpack(file)
    params, frozen = collections.get("params"), collections.get("frozen_params")
    if not isinstance(params, dict):
        raise HearMwmaeError("no checkpoint of MAE or MW-MAE: it has no map named 'params'")
    # Together they are the model, as in the authors' `get_all_params`.
    return _flatten(params) | (_flatten(frozen) if isinstance(frozen, dict) else {})


def _flatten(tree: dict) -> Params:
    leaves: Params = {}
    nodes = [(str(key), child) for key, child in tree.items()]
    while nodes:
        path, node = nodes.pop()
        if isinstance(node, dict):
            nodes += [(f"{path}/{key}", child) for key, child in node.items()]
        elif isinstance(node, np.ndarray):
            leaves[path] = node
        else:
            kind = type(node).__name__
            raise HearMwmaeError(f"parameter {path!r:.100} is a {kind}, not an array")
    return leaves


def _locate(path: Path) -> Path | None:
    """``path``, or the file in it, or that of the last step in it."""
    places = [path]
    if path.is_dir():
        steps = [step for step in path.iterdir() if re.fullmatch(r"checkpoint_\d+", step.name)]
        steps.sort(key=lambda step: int(step.name.removeprefix("checkpoint_")))
        places += steps[-1:]
    for place in places:
        for file in (place, place / "checkpoint"):
            if file.is_file():
                return file
    return None


@needs_extra("official", "reading the authors' checkpoints")
def _unpack(file: Path) -> dict[str, object]:
    """``params`` and ``frozen_params`` of the top-level map.

    The rest is skipped, not decoded: the optimizer's state alone is twice the size of the weights.
    """
    import msgpack  # only here and below: no other weights need it

    found = {}
    try:
        with open(file, "rb") as stream:
            # Older msgpack creates lists at their declared length: the limit prevents five bytes
            # from allocating gigabytes.
            unpacker = msgpack.Unpacker(
                stream, ext_hook=_unpack_ext, max_buffer_size=2**31 - 1, max_array_len=1000
            )
            for _ in range(unpacker.read_map_header()):
                key = unpacker.unpack()
                if key in ("params", "frozen_params"):
                    found[key] = unpacker.unpack()
                else:
                    unpacker.skip()
            if unpacker.tell() != file.stat().st_size:
                raise ValueError("there is more after its end")
    except (msgpack.UnpackException, ValueError, TypeError, OverflowError) as error:
        said = f"not a readable flax checkpoint (damaged or truncated): {reason(error)}"
        raise HearMwmaeError(said) from error
    return found


def _unpack_ext(code: int, data: bytes) -> np.ndarray:
    """An array as flax.serialization packs it; ValueError or TypeError if it is none of floats."""
    import msgpack

    shape, dtype, buffer = msgpack.unpackb(data)
    if dtype not in _DTYPES:
        raise ValueError(f"an array of {dtype!r:.100}")
    values = torch.frombuffer(bytearray(buffer), dtype=_DTYPES[dtype])
    return values.float().numpy().reshape(shape)
