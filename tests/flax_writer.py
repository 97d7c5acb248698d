"""Writes checkpoints as flax does, from the weights of this package's models."""

import msgpack
import numpy as np
import torch

from hear_mwmae.config import ModelConfig
from hear_mwmae.mae import MaskedAutoencoder

FLAX_NAMES = {
    "patch_embed": "patch_embed/proj",
    "norm1": "LayerNorm_0",
    "norm2": "LayerNorm_1",
    "mlp.fc1": "Mlp_0/Dense_0",
    "mlp.fc2": "Mlp_0/Dense_1",
}
ATTENTION = {"attn.qkv": "Attention_0/Dense_0", "attn.proj": "Attention_0/Dense_1"}
WINDOWED_ATTENTION = {"attn.qkv": "wmha_block/qkv", "attn.proj": "wmha_block/proj"}


def ext(value: np.ndarray, code: int = 1) -> msgpack.ExtType:
    """An array (code 1) or a numpy scalar (code 3) as flax.serialization packs it."""
    packed = msgpack.packb((value.shape, value.dtype.name, value.tobytes()))
    return msgpack.ExtType(code, packed)


def ones(*shape: int) -> msgpack.ExtType:
    return ext(np.ones(shape, "f4"))


def nest(leaves: dict[str, object]) -> dict:
    tree: dict = {}
    for path, leaf in leaves.items():
        node = tree
        *parents, name = path.split("/")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def train_state(leaves: dict[str, object], **changes: object) -> bytes:
    """A whole training state. Nothing of the optimizer's may be decoded: it could not be."""
    undecodable = {"mu": msgpack.ExtType(1, b"\xc1"), "nu": msgpack.ExtType(77, b"?")}
    state = {
        "step": ext(np.array(198400, "i4"), code=3),
        "batch_stats": {},
        "dynamic_scale": None,
        "frozen_params": {},
        "buffers": {"index": ext(np.arange(4))},
        "opt_state": {"0": undecodable, "1": {"count": [None, [1, 2], {3: 4}]}},
        "params": nest(leaves),
    }
    return msgpack.packb(state | changes)


def to_flax(config: ModelConfig, name: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    """Flax's path and layout of one of this package's weights."""
    part, rest = name.split(".", 1)
    if "." not in rest:  # position tables, CLS token, mask token
        return rest, value
    module, leaf = rest.rsplit(".", 1)
    prefix = ""
    if module.startswith("blocks."):
        _, number, module = module.split(".", 2)
        prefix = f"{part}_block_{int(number):02d}/"
    if module == "attn.relative_position_bias_table":
        table = f"{prefix}wmha_block/attn_heads_{leaf}/relative_position_bias_table"
        return table, value[:, None]
    attention = WINDOWED_ATTENTION if getattr(config, part).window_sizes else ATTENTION
    names = FLAX_NAMES | attention | {"norm": f"{part}_norm"}
    path = prefix + names.get(module, module)
    if leaf == "bias":
        return f"{path}/bias", value
    if "norm" in module:
        return f"{path}/scale", value
    if module == "patch_embed":
        return f"{path}/kernel", value.T.reshape(*config.patch_size, 1, -1)
    return f"{path}/kernel", value.T


def shapes_only(config: ModelConfig) -> dict[str, np.ndarray]:
    """Flax parameters without their memory."""
    with torch.device("meta"):
        state = MaskedAutoencoder(config).state_dict()
    zeros = {name: np.broadcast_to(np.float32(0), tuple(v.shape)) for name, v in state.items()}
    return dict(to_flax(config, name, value) for name, value in zeros.items())


def random_state(config: ModelConfig) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    state = MaskedAutoencoder(config).state_dict()
    return {name: torch.randn(value.shape) for name, value in state.items()}


def packed(config: ModelConfig, state: dict[str, torch.Tensor]) -> dict[str, object]:
    leaves = [to_flax(config, name, value.numpy()) for name, value in state.items()]
    return {path: ext(value) for path, value in leaves}
