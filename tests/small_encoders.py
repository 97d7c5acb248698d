"""Encoders for the tests of research.peers, which other processes import."""

import numpy as np

from research.peers.encoders import Embed, Encoder


def crossings() -> tuple[Embed, int]:
    """How often the sign changes, and how loud it is."""
    return lambda x: np.array([np.mean(x[1:] * x[:-1] < 0), np.std(x)]), 7


CROSSINGS = Encoder(
    key="mfcc",
    title="Crossings",
    about="changes of the sign, and loudness",
    code_licence="CC0-1.0",
    weights_licence="no weights",
    distribution="numpy",
    install="pip install crossings",
    load=crossings,
)
ELSEWHERE = CROSSINGS._replace(
    key="aisfx", title="Elsewhere", distribution="no_such_package", install="pip install elsewhere"
)
