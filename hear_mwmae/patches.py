"""Spectrogram <-> patches, sin-cos position tables, random masking."""

import torch
from torch import Tensor

from .errors import HearMwmaeError


def patchify(spectrogram: Tensor, patch_size: tuple[int, int], channels: int = 1) -> Tensor:
    """(B, frames, channels * mels) -> (B, tokens, patch values), tokens in time-major order.

    The bands of the channels stand side by side in a frame. A patch has the same frames and bands
    of every channel; its values are in the order (time, frequency, channel).
    """
    batch, frames, bands = spectrogram.shape
    p, q = patch_size
    mels = bands // channels
    grid = spectrogram.reshape(batch, frames // p, p, channels, mels // q, q).permute(
        0, 1, 4, 2, 5, 3
    )
    return grid.reshape(batch, (frames // p) * (mels // q), p * q * channels)


def unpatchify(
    patches: Tensor, patch_size: tuple[int, int], grid_size: tuple[int, int], channels: int = 1
) -> Tensor:
    """Inverse of `patchify`: (B, tokens, patch values) -> (B, frames, channels * mels)."""
    (p, q), (time, bands) = patch_size, grid_size
    grid = patches.reshape(-1, time, bands, p, q, channels).permute(0, 1, 3, 5, 2, 4)
    return grid.reshape(-1, time * p, channels * bands * q)


def sincos_1d(width: int, positions: Tensor) -> Tensor:
    """(tokens,) -> (tokens, width) float32: sines, then cosines; wavelengths 2 pi to 20000 pi."""
    omega = 1.0 / 10000.0 ** (
        torch.arange(width // 2, dtype=torch.float32, device=positions.device) / (width / 2)
    )
    angles = positions.float()[:, None] * omega
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def sincos_2d(width: int, grid_size: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
    """(tokens, width) table of a (time, frequency) grid in time-major order: frequency in the first
    half, time in the second.
    """
    time, bands = torch.meshgrid(
        *(torch.arange(n, device=device) for n in grid_size), indexing="ij"
    )
    return torch.cat(
        [sincos_1d(width // 2, bands.flatten()), sincos_1d(width // 2, time.flatten())], dim=1
    )


def random_masking(
    tokens: Tensor, num_kept: int, noise: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Keep the ``num_kept`` tokens of smallest noise in each row.

    Args:
        tokens: (B, tokens, D).
        noise: (B, tokens) determines the mask; drawn uniformly from torch's generator when None.

    Returns:
        kept (B, num_kept, D); mask (B, tokens) float32, 1 = removed; ids_restore (B, tokens) int64,
        which puts the sequence [kept, removed] back into its order.
    """
    batch, length, width = tokens.shape
    if noise is None:
        noise = torch.rand(batch, length, dtype=torch.float32, device=tokens.device)
    elif noise.shape != (batch, length):
        raise HearMwmaeError(
            f"noise must have shape ({batch}, {length}), one value per token, "
            f"got {tuple(noise.shape)}"
        )
    ids_shuffle = noise.argsort(dim=1, stable=True)
    ids_restore = ids_shuffle.argsort(dim=1)
    kept = tokens.gather(1, ids_shuffle[:, :num_kept, None].expand(-1, -1, width))
    mask = (ids_restore >= num_kept).float()
    return kept, mask, ids_restore
