"""Encoders for the tests of research.peers, which other processes import."""

import numpy as np

from research.peers.encoders import Embed, Encoder


def length() -> tuple[Embed, int]:
    return lambda waveform: np.array([len(waveform)]), 0


def crossings() -> tuple[Embed, int]:
    """How often the sign changes, and how loud it is."""
    return lambda x: np.array([np.mean(x[1:] * x[:-1] < 0), np.std(x)]), 7


CONSTANT = Encoder(
    key="constant",
    title="Constant",
    about="the length of the clip",
    code_licence="CC0-1.0",
    weights_licence="no weights",
    modules="",
    distribution="numpy",
    install="pip install constant",
    load=length,
)
CROSSINGS = CONSTANT._replace(
    key="crossings", title="Crossings", install="pip install crossings", load=crossings
)
ELSEWHERE = CONSTANT._replace(
    key="elsewhere", title="Elsewhere", modules="no_such_package", install="pip install elsewhere"
)
