"""Floating-point operations of matrix products, as the model needs them: no tiles, no
recomputation.

`torch.utils.flop_counter` counts what is executed, by which a slower way would look like a faster
one.
"""

from __future__ import annotations

from hear_mwmae.config import DecoderConfig, EncoderConfig, ModelConfig


def embedding(config: ModelConfig, chunks: int) -> float:
    """Of the encoder, over ``chunks`` whole inputs."""
    patches = 2 * config.num_tokens * config.patch_dim * config.encoder.width
    return chunks * (patches + _blocks(config.encoder, config.num_tokens))


def update(config: ModelConfig, decoder_attends: bool = True) -> float:
    """Of one update on one crop: forward, and twice that backward."""
    cls = int(config.encoder.cls_token)
    ends = 2 * config.num_tokens * config.patch_dim * (config.encoder.width + config.decoder.width)
    middle = 2 * config.num_kept * config.encoder.width * config.decoder.width
    decoder = _blocks(config.decoder, config.num_tokens + cls, decoder_attends)
    return 3 * (_blocks(config.encoder, config.num_kept + cls) + decoder + ends + middle)


def _blocks(part: EncoderConfig | DecoderConfig, tokens: int, attends: bool = True) -> float:
    windows = part.window_sizes or (0,) * part.heads
    scores = attends * sum(window or tokens for window in windows) / len(windows)
    return (
        part.depth
        * 2
        * tokens
        * part.width
        * (4 * part.width + 2 * part.width * part.mlp_ratio + 2 * scores)
    )
