"""Transformer block and the encoder: spectrogram patches -> tokens."""

import torch
from torch import Tensor, nn

from .attention import SelfAttention
from .config import DecoderConfig, EncoderConfig, ModelConfig
from .errors import HearMwmaeError
from .linear import Linear, linear_gelu
from .patches import patchify, random_masking, sincos_2d
from .tiles import TiledMultiWindowAttention

#: As in the authors' flax code; PyTorch's own default is 1e-5.
LAYER_NORM_EPS = 1e-6


class Mlp(nn.Module):
    """Two linear layers around a GELU in its tanh approximation."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(linear_gelu(self.fc1, x))


class Block(nn.Module):
    """Pre-norm transformer block, (B, tokens, width) -> the same; block ``number`` counts from 0
    (odd ones may shift).
    """

    def __init__(self, config: EncoderConfig | DecoderConfig, number: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, LAYER_NORM_EPS)
        if config.window_sizes:
            shift = config.shift_windows and number % 2 == 1
            self.attn: SelfAttention = TiledMultiWindowAttention(
                config.width, config.window_sizes, shift
            )
        else:
            self.attn = SelfAttention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width, LAYER_NORM_EPS)
        self.mlp = Mlp(config.width, int(config.width * config.mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    """Patches, positions, transformer blocks.

    ``config`` is the model's, because it sets the patch grid.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.encoder.width
        # A linear map of flattened patches: the same as the authors' convolution of stride = kernel
        # = patch.
        self.patch_embed = Linear(config.patch_dim, width)
        # Trained like any weight in the authors' code, hence a parameter that checkpoints carry.
        rows = config.num_tokens + int(config.encoder.cls_token)
        self.pos_embed = nn.Parameter(torch.empty(1, rows, width))
        if config.encoder.cls_token:
            self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.blocks = nn.ModuleList(
            Block(config.encoder, number) for number in range(config.encoder.depth)
        )
        self.norm = nn.LayerNorm(width, LAYER_NORM_EPS)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initial weights as in the authors' code; the layers inside have theirs already."""
        if self.pos_embed.is_meta:  # about to be loaded
            return
        table = sincos_2d(self.config.encoder.width, self.config.grid_size, self.pos_embed.device)
        self.pos_embed.zero_()
        self.pos_embed[0, -len(table) :] = table
        if self.config.encoder.cls_token:
            nn.init.normal_(self.cls_token, std=0.02)
        # The fans of a (p, q, 1, width) convolution kernel: p * q and p * q * width.
        bound = (6 / (self.config.patch_dim * (1 + self.config.encoder.width))) ** 0.5
        nn.init.uniform_(self.patch_embed.weight, -bound, bound)

    def forward(self, spectrogram: Tensor) -> Tensor:
        """(B, input_frames, channels * n_mels) -> (B, tokens, width).

        A CLS token comes first where the model has one.
        """
        return self._transform(self._embed(spectrogram))

    def forward_masked(
        self, spectrogram: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encode only the patches that stay: latent (B, [1 +] kept, width), and mask, ids_restore
        of `random_masking`.
        """
        kept, mask, ids_restore = random_masking(
            self._embed(spectrogram), self.config.num_kept, noise
        )
        return self._transform(kept), mask, ids_restore

    def forward_features(self, spectrogram: Tensor) -> Tensor:
        """(B, input_frames, channels * n_mels) -> (B, time steps, bands * width).

        The tokens of one time step stand side by side.
        """
        return self.time_steps(self(spectrogram))

    def forward_layers(self, spectrogram: Tensor) -> list[Tensor]:
        """(B, input_frames, channels * n_mels) -> for each block (B, tokens, width): its output.

        The last layer norm is not applied.
        """
        tokens, outputs = self._begin(self._embed(spectrogram)), []
        for block in self.blocks:
            tokens = block(tokens)
            outputs.append(tokens)
        return outputs

    def time_steps(self, tokens: Tensor) -> Tensor:
        """(B, tokens, width), a CLS token first where the model has one -> (B, time steps, bands *
        width), without it.
        """
        tokens = tokens[:, int(self.config.encoder.cls_token) :]
        return tokens.reshape(tokens.shape[0], self.config.grid_size[0], -1)

    def _embed(self, spectrogram: Tensor) -> Tensor:
        frontend = self.config.frontend
        expected = (self.config.input_frames, frontend.bands)
        if (
            spectrogram.ndim != 3
            or spectrogram.shape[1:] != expected
            or not spectrogram.is_floating_point()
        ):
            raise HearMwmaeError(
                "the encoder takes floating-point spectrograms of shape "
                f"(batch, {expected[0]}, {expected[1]}), "
                f"got {tuple(spectrogram.shape)} of {spectrogram.dtype}"
            )
        patches = patchify(
            spectrogram.to(self.pos_embed.dtype), self.config.patch_size, frontend.channels
        )
        return self.patch_embed(patches) + self.pos_embed[:, int(self.config.encoder.cls_token) :]

    def _begin(self, tokens: Tensor) -> Tensor:
        """The CLS token before the others, where the model has one."""
        if not self.config.encoder.cls_token:
            return tokens
        cls = self.cls_token + self.pos_embed[:, :1]
        return torch.cat([cls.expand(tokens.shape[0], -1, -1).to(tokens.dtype), tokens], dim=1)

    def _transform(self, tokens: Tensor) -> Tensor:
        tokens = self._begin(tokens)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)
