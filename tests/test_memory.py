"""Long recordings: pieces that give the same embeddings, and memory that hardly grows."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from embed_command import ENVIRONMENT
from test_hear_api import noise

from hear_mwmae import embedder
from hear_mwmae.embedder import Embedder
from hear_mwmae.pooling import pool

#: MB of 10 minutes: samples at 16 kHz and a spectrogram of 80 bands, both float32.
WAVEFORM, SPECTROGRAM = 38.4, 19.2


@pytest.fixture
def model(small_config) -> Embedder:
    torch.manual_seed(0)
    return Embedder(small_config, pooling="mean+std+max")


def test_pieces_are_the_whole(model, monkeypatch):
    """A batch of long clips too, and all that `layers` and the time steps give."""
    audio = torch.stack([noise(300_000), noise(300_000, 1)])  # ten chunks
    whole = model(audio)
    steps, _ = model(audio, timestamps=True)
    layers = model.layers(audio, [-1])
    monkeypatch.setattr(embedder, "PIECE_CHUNKS", 3)
    pieces = [list(found) for found, _ in model.time_steps([audio])]
    assert [piece.shape[:2] for piece in pieces[0]] == [(2, 150)] * 3 + [(2, 19)]
    assert (model(audio) - whole).abs().max() < 1e-5
    assert (model(audio, timestamps=True)[0] - steps).abs().max() < 1e-5
    assert (model.layers(audio, [-1])[0] - layers[0]).abs().max() < 1e-4
    mixed = model.embed([noise(5), audio[0], noise(40_000), audio[1]])
    assert (mixed[[1, 3]] - whole).abs().max() < 1e-5


def test_statistics_of_pieces_do_not_cancel_around_a_large_mean():
    generator = torch.Generator().manual_seed(0)
    values = 1000 + torch.randn(1, 5000, 4, dtype=torch.float64, generator=generator)
    exact = torch.cat([values.mean(1), values.std(1, correction=0), values.amax(1)], dim=1)
    pieces = values.float().split(37, dim=1)
    found = pool(pieces, ("mean", "std", "max")).double()
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=0)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_minutes_take_their_samples_and_their_spectrogram_alone(saved_model, tmp_path):
    """Peak of a process with 10 minutes of 44.1 kHz stereo above that with ten seconds."""
    second = np.random.default_rng(0).uniform(-0.5, 0.5, (44100, 2))
    for seconds in (10, 600):
        with soundfile.SoundFile(tmp_path / f"{seconds}.flac", "w", 44100, 2) as file:
            for _ in range(seconds):
                file.write(second)
    code = (
        "import re, sys, hear_mwmae; folder, model = sys.argv[1:]\n"
        "model = hear_mwmae.load_model(model, max_batch=4)\n"
        "for seconds in (10, 600):\n"
        "    model.embed(f'{folder}/{seconds}.flac')\n"
        "    print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(saved_model)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT)
    seconds, minutes = map(int, done.stdout.split())
    # 30 MB are blocks of the transform; a copy of the spectrogram would exceed the limit. The
    # system's ru_maxrss would count this process as well.
    assert (minutes - seconds) * 1024 / 1e6 < WAVEFORM + SPECTROGRAM + 45
