"""The masked autoencoder of pretraining: encoder, decoder and loss.

Inference never imports this module.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .config import ModelConfig
from .encoder import LAYER_NORM_EPS, Block, Encoder
from .linear import Linear
from .patches import patchify, sincos_1d
from .weights import load_strictly, read_model


class MaskedAutoencoderOutput(NamedTuple):
    """Output of a training forward pass."""

    loss: Tensor  #: () mean squared error over the masked patches
    pred: Tensor  #: (B, tokens, patch values) predicted patches
    mask: Tensor  #: (B, tokens) 1 = removed and to be predicted
    ids_restore: Tensor  #: (B, tokens) int64: index of each token in [kept, removed]
    #: (B, [1 +] kept, encoder width) encoded kept tokens, after a CLS token if the model has one
    latent: Tensor


class Decoder(nn.Module):
    """(B, [1 +] kept, encoder width) latent -> (B, tokens, patch values), every one predicted."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width, cls = config.decoder.width, int(config.encoder.cls_token)
        self.decoder_embed = Linear(config.encoder.width, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.decoder_pos_embed = nn.Parameter(torch.empty(1, config.num_tokens + cls, width))
        self.blocks = nn.ModuleList(
            Block(config.decoder, number) for number in range(config.decoder.depth)
        )
        self.norm = nn.LayerNorm(width, LAYER_NORM_EPS)
        self.decoder_pred = Linear(width, config.patch_dim)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initial weights as in the authors' code; the layers inside have theirs already."""
        if self.mask_token.is_meta:  # about to be loaded
            return
        tokens = torch.arange(self.config.num_tokens, device=self.mask_token.device)
        self.decoder_pos_embed.zero_()
        self.decoder_pos_embed[0, -len(tokens) :] = sincos_1d(self.config.decoder.width, tokens)
        nn.init.normal_(self.mask_token, std=0.02)
        for linear in (self.decoder_embed, self.decoder_pred):
            lecun_normal_(linear.weight)

    def forward(self, latent: Tensor, ids_restore: Tensor) -> Tensor:
        cls = int(self.config.encoder.cls_token)
        x = self.decoder_embed(latent)
        batch, length = ids_restore.shape
        missing = length + cls - x.shape[1]
        shuffled = torch.cat(
            [x[:, cls:], self.mask_token.to(x.dtype).expand(batch, missing, -1)], dim=1
        )
        tokens = shuffled.gather(1, ids_restore[:, :, None].expand(-1, -1, x.shape[2]))
        x = torch.cat([x[:, :cls], tokens], dim=1) + self.decoder_pos_embed
        for block in self.blocks:
            x = block(x)
        return self.decoder_pred(self.norm(x))[:, cls:]


class MaskedAutoencoder(nn.Module):
    """MW-MAE, or the plain MAE baseline: ``MaskedAutoencoder(preset("mwmae-tiny"))``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    @classmethod
    def from_pretrained(cls, source: str = "") -> MaskedAutoencoder:
        """Encoder and decoder of a pretrained model, to continue training; ``source`` as in
        `hear_mwmae.load_model`.
        """
        config, state = read_model(source)
        with torch.device("meta"):  # as in load_embedder
            model = cls(config).float()
        load_strictly(model, state, source or "the embedded model")
        return model

    def forward(self, spectrogram: Tensor, noise: Tensor | None = None) -> MaskedAutoencoderOutput:
        """Mask, encode, predict, compare.

        Args:
            spectrogram: (B, input_frames, channels * n_mels) float32, normalised.
            noise: (B, tokens) determines the mask: the tokens of smallest noise stay. Random when
                None.
        """
        latent, mask, ids_restore = self.encoder.forward_masked(spectrogram, noise)
        pred = self.decoder(latent, ids_restore)
        return MaskedAutoencoderOutput(
            self.loss(spectrogram, pred, mask), pred, mask, ids_restore, latent
        )

    def loss(self, spectrogram: Tensor, pred: Tensor, mask: Tensor) -> Tensor:
        """Mean squared error over the masked patches, in float32.

        With norm_pix_loss, patches are standardised first.
        """
        target = patchify(spectrogram, self.config.patch_size, self.config.frontend.channels)
        if self.config.norm_pix_loss:
            var, mean = torch.var_mean(
                target, dim=-1, correction=0, keepdim=True
            )  # population variance, as jax's
            target = (target - mean) / (var + 1e-6).sqrt()
        error = (pred.float() - target).square().mean(dim=-1)
        return (error * mask).sum() / mask.sum()


def describe(config: ModelConfig) -> dict[str, str]:
    """Kind, input, patches, encoder and decoder of a model, in words."""
    frontend, (frames, bands) = config.frontend, config.patch_size
    lengths = " and ".join(map(str, frontend.win_lengths))
    said = {
        "kind": "MW-MAE (multi-window)" if config.kind == "mwmae" else "MAE (global attention)",
        "input": f"log-mel of {lengths} samples, {config.input_frames} frames x "
        f"{frontend.n_mels} bands per chunk",
        "patches": f"{frames} frames x {bands} bands, {config.num_tokens} tokens, of which "
        f"pretraining keeps {config.num_kept}",
    }
    with torch.device("meta"):
        model = MaskedAutoencoder(config)
    for name, module in model.named_children():
        part = getattr(config, name)
        windows = ", ".join(str(w) if w else "global" for w in part.window_sizes) or "global"
        count = sum(weight.numel() for weight in module.parameters())
        said[name] = (
            f"width {part.width}, depth {part.depth}, {part.heads} heads, {count:,} weights, "
            f"windows {windows}"
        )
    return said


def lecun_normal_(weight: Tensor) -> None:
    """Flax's default: a normal cut off at two deviations, rescaled to a variance of 1 / fan_in."""
    std = weight.shape[1] ** -0.5 / 0.87962566103423978
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
