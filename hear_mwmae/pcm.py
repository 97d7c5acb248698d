"""The one conversion of float samples to 16 bits."""

from __future__ import annotations

import numpy as np


def to_pcm(audio: np.ndarray) -> np.ndarray:
    """Float samples -> int16 of the same shape, times 2^15: the inverse of reading 16-bit audio.

    Full scale is [-1, 1); what lies beyond it is clipped.
    """
    return (audio * 32768).round().clip(-32768, 32767).astype(np.int16)
