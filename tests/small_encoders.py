"""Encoders for the tests of research.peers, which other processes import."""

from __future__ import annotations

import os

import numpy as np

from research.peers.encoders import Encoder


class Constant(Encoder):
    key, title, about = "constant", "Constant", "the length of the clip"
    code_licence, install = "CC0-1.0", "pip install constant"

    @classmethod
    def version(cls) -> str:
        return "1"

    def embed(self, waveform: np.ndarray) -> np.ndarray:
        return np.array([len(waveform)])


class Crossings(Constant):
    key, title, about = "crossings", "Crossings", "how often the sign changes, and how loud it is"
    install = "pip install crossings"
    parameters = 7

    def embed(self, waveform: np.ndarray) -> np.ndarray:
        return np.array([np.mean(waveform[1:] * waveform[:-1] < 0), np.std(waveform)])


class Elsewhere(Constant):
    key, title, modules = "elsewhere", "Elsewhere", ("no_such_package",)
    install = "pip install elsewhere"


class Process(Constant):
    key, title = "process", "Process"

    def __init__(self) -> None:
        self.parameters = os.getpid()
