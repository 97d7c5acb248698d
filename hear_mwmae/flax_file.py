"""Reads the parameters in the authors' checkpoints, with msgpack and numpy alone.

Two containers are known: flax's legacy file (one msgpack map), and the directory of orbax (2023),
which has such a map in a file named ``checkpoint``. Nothing is unpickled, and only the parameters
are decoded.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from .errors import HearMwmaeError
from .extras import needs
from .hub import WEIGHTS_NAME

_NDARRAY, _NUMPY_SCALAR = 1, 3  # two of flax.serialization's msgpack extension types
_CHUNKED = "__msgpack_chunked_array__"
# numpy has no bfloat16: `_array` converts its bits.
_DTYPES = {"float32": np.float32, "bfloat16": np.uint16, "float16": np.float16, "float64": np.float64}


def is_official_checkpoint(path: Path) -> bool:
    """Whether ``path`` looks like one of the authors' checkpoints (or like a checkpoint that orbax
    spread over many files).
    """
    if (path / WEIGHTS_NAME).is_file():  # converted into the directory of the original
        return False
    file = _locate(path)
    if file is None:
        return _is_spread(path)
    with open(file, "rb") as stream:
        first = stream.read(1)
    # A msgpack map: fixmap, map16 or map32. An empty one, 0x80, would be no checkpoint; pickles
    # begin so.
    return bool(first) and (0x81 <= first[0] <= 0x8F or first[0] in (0xDE, 0xDF))


def read_params(path: Path) -> dict[str, np.ndarray]:
    """The parameters by path: ``"encoder_block_00/Mlp_0/Dense_0/kernel" -> array``."""
    file = _locate(path)
    if file is None and _is_spread(path):
        raise HearMwmaeError(_SPREAD)
    if file is None:
        raise HearMwmaeError(
            "no flax checkpoint: expected a file, or a directory with a 'checkpoint' or 'checkpoint_<step>' in it"
        )
    collections, names = _unpack_collections(file)
    params, frozen = collections.get("params"), collections.get("frozen_params")
    if isinstance(params, dict) and set(params) == {"params"}:
        params = params["params"]
    if not isinstance(params, dict):
        raise HearMwmaeError(f"no checkpoint of MAE or MW-MAE: no map named 'params' among {', '.join(names[:10]) or 'nothing'}")
    # Together they are the model, as in the authors' `get_all_params`; orbax writes None for an
    # empty collection.
    return _flatten(params) | (_flatten(frozen) if isinstance(frozen, dict) else {})


def _flatten(tree: dict) -> dict[str, np.ndarray]:
    leaves, nodes = {}, [(str(key), child) for key, child in tree.items()]
    while nodes:
        path, node = nodes.pop()
        if isinstance(node, dict) and _CHUNKED in node:
            leaves[path] = _join_chunks(path, node)
        elif isinstance(node, dict):
            nodes += [(f"{path}/{key}", child) for key, child in node.items()]
        elif isinstance(node, np.ndarray):
            leaves[path] = node
        elif isinstance(node, str) and node.startswith("PLACEHOLDER://"):
            raise HearMwmaeError(_SPREAD)
        else:
            raise HearMwmaeError(f"parameter {path!r:.100} is a {type(node).__name__}, not an array")
    return leaves


def _join_chunks(path: str, node: dict) -> np.ndarray:
    """Join an array that flax has cut, because it is above 2^30 bytes.

    Its form: {"shape": {"0": ...}, "chunks": {"0": flat array, ...}}.
    """
    try:
        shape, chunks = ([node[name][str(i)] for i in range(len(node[name]))] for name in ("shape", "chunks"))
        if not all(isinstance(chunk, np.ndarray) for chunk in chunks):
            raise TypeError("not all of them are arrays")
        return np.concatenate(chunks).reshape(shape)
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise HearMwmaeError(f"the chunks of parameter {path!r:.100} do not fit together: {error!r:.100}") from error


_SPREAD = (
    "an orbax checkpoint whose arrays lie in files of their own (OCDBT or zarr), which only orbax can read. Supported are flax's "
    "legacy file and orbax's single file: restore this one with orbax, and write flax.serialization.to_bytes(state) to a file"
)


def _places(path: Path) -> list[Path]:
    """Candidate places: ``path``, orbax's ``default`` in it, and the same in the directory of the
    last step.
    """
    if not path.is_dir():
        return [path]
    steps = [entry for entry in path.iterdir() if re.fullmatch(r"(checkpoint_)?[0-9]+", entry.name)]
    # Flax's checkpoint_<step> come before the bare numbers of an orbax manager, which other
    # directories may also have.
    last = sorted(steps, key=lambda entry: (entry.name.startswith("c"), int(entry.name.removeprefix("checkpoint_"))))[-1:]
    return [place for parent in [path, *last] for place in (parent, parent / "default")]


def _locate(path: Path) -> Path | None:
    files = [file for place in _places(path) for file in (place, place / "checkpoint")]
    return next((file for file in files if file.is_file()), None)


def _is_spread(path: Path) -> bool:
    return any((place / name).exists() for place in _places(path) for name in ("_METADATA", "manifest.ocdbt"))


def _unpack_collections(file: Path) -> tuple[dict[str, object], list[str]]:
    """``params`` and ``frozen_params`` of the top-level map, and the names of all its entries.

    The rest is skipped, not decoded: the optimiser's state alone is twice the size of the weights.
    """
    try:
        import msgpack  # only here and below: no other weights need it
    except ImportError as error:
        raise needs("reading the authors' checkpoints", "msgpack", "official") from error

    found, names = {}, []
    try:
        with open(file, "rb") as stream:
            # Older msgpack creates lists at their declared length: the limit prevents five bytes
            # from allocating gigabytes.
            unpacker = msgpack.Unpacker(stream, ext_hook=_unpack_ext, max_buffer_size=2**31 - 1, max_array_len=1000)
            for _ in range(unpacker.read_map_header()):
                key = unpacker.unpack()
                name = key if isinstance(key, str) else f"a {type(key).__name__}"  # not its repr, which may nest too deeply
                names.append(name[:40])
                if name in ("params", "frozen_params"):
                    found[name] = unpacker.unpack()
                else:
                    unpacker.skip()
            if unpacker.tell() != file.stat().st_size:
                raise HearMwmaeError("there is more after its end")
    except (msgpack.exceptions.UnpackException, ValueError) as error:
        raise HearMwmaeError(f"not a readable flax checkpoint (damaged or truncated): {error}") from error
    return found, names


def _unpack_ext(code: int, data: bytes) -> object:
    import msgpack

    if code not in (_NDARRAY, _NUMPY_SCALAR):
        return msgpack.ExtType(code, data)
    fields = msgpack.unpackb(data)
    if not isinstance(fields, list) or [type(field) for field in fields] != [list, str, bytes]:
        raise HearMwmaeError("an array is not stored as (shape, dtype, bytes)")
    return _array(*fields)


def _array(shape: list, dtype: str, buffer: bytes) -> np.ndarray:
    if dtype not in _DTYPES:
        raise HearMwmaeError(f"an array has dtype {dtype!r:.40}, none of {', '.join(_DTYPES)}")
    if any(type(n) is not int or n < 1 for n in shape) or math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize != len(buffer):
        raise HearMwmaeError(f"an array of shape {shape!r:.60} and dtype {dtype} has {len(buffer)} bytes")
    values = np.frombuffer(buffer, _DTYPES[dtype])
    if dtype == "bfloat16":  # the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False).reshape(shape)
