"""What the branch `audio` and main bring: to be deleted, with its import in data/__init__.py, at the merge."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import soundfile
import torch

from . import audio
from .embedder import Embedder
from .errors import HearMwmaeError

if not hasattr(audio, "search_audio"):

    @dataclass
    class Found:
        files: list[Path] = field(default_factory=list)
        passed_over: Counter = field(default_factory=Counter)
        failures: list[tuple[Path, str]] = field(default_factory=list)

        def passed_over_line(self) -> str:
            return ", ".join(f"{count} {suffix}" for suffix, count in sorted(self.passed_over.items()))

    def search_audio(paths):
        found = Found()
        for path in paths:
            try:
                found.files += audio.find_audio([path])
            except HearMwmaeError as error:
                found.failures.append((Path(path), str(error)))
        return found

    def audio_seconds(path):
        try:
            return soundfile.info(str(path)).duration
        except (RuntimeError, OSError, TypeError):
            return None

    audio.Found, audio.search_audio, audio.audio_seconds = Found, search_audio, audio_seconds
    audio.read_blocks = lambda path, sample_rate, seconds=60.0: iter(audio.read_audio(path, sample_rate).split(960000))

if not hasattr(Embedder, "timestamp_blocks"):

    def timestamp_blocks(self, blocks):
        embeddings, times = self.timestamp_embeddings(torch.cat(list(blocks))[None])
        yield from zip(embeddings[0].split(1000), times[0].split(1000), strict=True)

    def scene_embedding_of_blocks(self, blocks, progress=None):
        clip = torch.cat(list(blocks))
        if progress:
            progress(len(clip) / self.sample_rate)
        return self.scene_embeddings(clip[None])[0]

    Embedder.timestamp_blocks, Embedder.scene_embedding_of_blocks = timestamp_blocks, scene_embedding_of_blocks
