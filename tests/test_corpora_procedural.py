"""Procedural sound: what is computed from a seed."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from corpora import manifest, procedural, signals, synthesis
from corpora.manifest import MANIFEST, read_manifest


def loudest(sound: np.ndarray) -> float:
    """Frequency of the highest peak of the spectrum, in hertz."""
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 2**18))
    return float(np.argmax(spectrum)) * signals.RATE / 2**18


def test_a_clip_is_a_function_of_seed_and_index():
    clip = procedural.render_clip(3, 7)
    assert clip.shape == (160_000,) and np.isfinite(clip).all() and 0.05 < np.abs(clip).max() <= 0.9
    np.testing.assert_array_equal(clip, procedural.render_clip(3, 7))
    others = procedural.render_clip(3, 8), procedural.render_clip(4, 7)
    assert all(np.abs(clip - other).max() > 0.01 for other in others)


@pytest.mark.parametrize("instrument", procedural.ALL, ids=lambda instrument: instrument.__name__)
def test_instruments_play_every_pitch(instrument):
    r = np.random.default_rng(0)
    for f in (27.5, 440.0, 4186.0):
        play = instrument(r)
        for n in (400, 16_000):
            sound = play(f, n)
            assert sound.shape == (n,) and np.isfinite(sound).all() and np.abs(sound).max() > 0


@pytest.mark.parametrize("f", [55.0, 440.0, 1760.0])
def test_strings_are_in_tune(f):
    """To ten cents, by the place of their first partial."""
    for seed in range(5):
        sound = synthesis.pluck(np.random.default_rng(seed))(f, 32_000)
        spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 2**18))
        near = np.arange(round(f * 0.95 * 2**18 / 16000), round(f * 1.05 * 2**18 / 16000))
        found = near[np.argmax(spectrum[near])] * 16000 / 2**18
        assert abs(1200 * np.log2(found / f)) < 10


def test_damped_modes():
    """Against the sines themselves, and nothing beyond the top."""
    n, t = 1000, np.arange(1000) / signals.RATE
    f, decays, amplitudes = np.array([100.0, 3000.0, 7900.0]), np.array([0.05, 0.5, 1.0]), np.array([1.0, 0.5j, 1.0])
    expected = np.exp(-t / 0.05) * np.cos(2 * np.pi * 100 * t) - 0.5 * np.exp(-t / 0.5) * np.sin(2 * np.pi * 3000 * t)
    np.testing.assert_allclose(signals.damped(f, decays, amplitudes, n), expected, atol=1e-9)


def test_pitches_are_uniform_from_a0_to_c8():
    r = np.random.default_rng(0)
    octaves = np.log2([procedural.draw_pitch(r) / 27.5 for _ in range(4000)])
    counts, _ = np.histogram(octaves, 8, (0, 7.25))
    assert counts.sum() == 4000 and counts.min() > 400 and counts.max() < 600


def test_an_interrupted_run_goes_on_to_the_same_clips(tmp_path, monkeypatch):
    monkeypatch.setattr(procedural, "BATCH", 2)
    command = [str(tmp_path / "out"), "--clips", "4", "--jobs", "1"]
    assert CliRunner().invoke(procedural.main, command).exit_code == 0
    before = {row["path"]: (tmp_path / "out" / row["path"]).read_bytes() for row in read_manifest(tmp_path / "out" / MANIFEST)}
    assert len(before) == 4
    (tmp_path / "out" / "records" / "000002-000004.csv").unlink()  # as if it had stopped in the second batch
    shutil.rmtree(tmp_path / "out" / "audio")
    result = CliRunner().invoke(procedural.main, command)
    assert result.exit_code == 0, result.output
    made = sorted((tmp_path / "out" / "audio").rglob("*.flac"))
    assert [str(path.relative_to(tmp_path / "out")) for path in made] == sorted(before)[2:]  # the first batch is not made again
    assert all(path.read_bytes() == before[str(path.relative_to(tmp_path / "out"))] for path in made)
    rows = list(read_manifest(tmp_path / "out" / MANIFEST))
    assert {(row["kind"], row["licence"], row["seconds"]) for row in rows} == {("procedural", "CC0-1.0", "10.0")} and len(
        rows
    ) == 4
    assert soundfile.info(made[0]).samplerate == 16000


def test_hours_by_package_and_kind(tmp_path):
    manifest.write_manifest(tmp_path, [("a", 3600, "one", "1", "speech", "MIT"), ("b", 1800, "one", "1", "music", "MIT")])
    output = CliRunner().invoke(manifest.main, [str(tmp_path / "manifest.csv")]).output
    assert [line.split() for line in output.splitlines() if line.startswith("TOTAL")] == [
        ["TOTAL", "all", "2", "1.50"],
        ["TOTAL", "music", "1", "0.50"],
        ["TOTAL", "speech", "1", "1.00"],
    ]
