"""Audio files: decoded in any format, mixed down, resampled; damaged ones are noticed."""

import io
import os

import numpy as np
import pytest
import soundfile
import torch
from audio_files import tone
from reference import AUDIO

from hear_mwmae import HearMwmaeError, decoding
from hear_mwmae import audio as audio_module
from hear_mwmae.audio import find_audio, read_audio, resample

CLIPS = sorted(AUDIO.iterdir())


def test_channels_are_averaged(tmp_path):
    stereo = np.stack([np.full(4410, 0.5), np.full(4410, -0.25)], axis=1).astype("f4")
    soundfile.write(tmp_path / "stereo.wav", stereo, 44100, subtype="FLOAT")
    assert read_audio(tmp_path / "stereo.wav", 44100).tolist() == [0.125] * 4410
    resampled = resample(torch.full((4410,), 0.125), 44100, 16000)
    assert torch.equal(read_audio(tmp_path / "stereo.wav", 16000), resampled)


@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.suffix)
def test_open_files_are_read_as_paths_are(path):
    """By whatever they are called in messages, whole and cut short."""
    content = path.read_bytes()
    with open(path, "rb") as file:
        for stream in (file, io.BytesIO(content)):
            assert torch.equal(read_audio(stream, 16000), read_audio(path, 16000))
    for share in (0.3, 0.9):
        stream = io.BytesIO(content[: int(len(content) * share)])
        stream.name = "in memory"
        with pytest.raises(HearMwmaeError, match=r"^in memory: .*(truncated|damaged)"):
            read_audio(stream, 16000)


def test_how_much_is_decoded_at_a_time_changes_nothing(monkeypatch):
    whole = [read_audio(path, 16000) for path in CLIPS]
    for module in (audio_module, decoding):
        monkeypatch.setattr(module, "BLOCK_SAMPLES", 1000)
    for path, audio in zip(CLIPS, whole, strict=True):
        assert torch.equal(read_audio(path, 16000), audio)


@pytest.mark.parametrize("rate", [8000, 11127, 44100, 192007])
def test_resampled_tones(rate):
    """Those within the band are what they are at 16 kHz, away from the ends, and those above it are
    gone.
    """
    inner = slice(1600, -1600)
    for frequency in (100, 0.3 * min(rate, 16000)):
        ours = resample(torch.from_numpy(tone(rate, 1.0, frequency)), rate, 16000)
        assert len(ours) == 16000
        assert np.abs(ours.numpy() - tone(16000, 1.0, frequency))[inner].max() < 2e-4
    if rate > 24000:
        above = resample(torch.from_numpy(tone(rate, 1.0, 12000)), rate, 16000)
        assert above[inner].abs().max() < 1e-4


def test_a_clip_shorter_than_a_sample_is_one(tmp_path):
    soundfile.write(tmp_path / "click.wav", np.full(3, 0.25), 192000, subtype="FLOAT")
    assert read_audio(tmp_path / "click.wav", 16000).tolist() == [0.25]


def test_unreadable_files_have_a_clear_reason(tmp_path):
    contents = {
        "nothing.mp3": (b"", "an empty file"),
        "text.wav": (b"this is not audio", "not an audio file"),
        "headerless.raw": (bytes(1000), "not an audio file"),
        "header.wav": ((AUDIO / "crow.wav").read_bytes()[:30], "not an audio file|no samples"),
        "truncated.flac": ((AUDIO / "piano.flac").read_bytes()[:40000], "truncated|damaged"),
    }
    for name, (content, reason) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(HearMwmaeError, match=rf"{name}: .*({reason})") as caught:
            read_audio(tmp_path / name, 16000)
        assert len(str(caught.value).splitlines()) == 1
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, "f4"), 16000)
    os.mkfifo(tmp_path / "pipe.wav")
    paths = {"missing.wav": "no such file", "empty.wav": "no samples", "pipe.wav": "not a file"}
    for name, reason in paths.items():
        with pytest.raises(HearMwmaeError, match=rf"{name}: .*{reason}"):
            read_audio(tmp_path / name, 16000)


#: Rare formats whose headers say a length.
RARE = {"RF64": "rf64", "W64": "w64", "AIFF": "aiff", "AU": "au", "CAF": "caf", "NIST": "sph"}
RARE |= {"VOC": "voc", "SVX": "8svx"}


@pytest.mark.parametrize("name", RARE)
def test_rare_formats_are_found_read_and_held_to_their_headers(name, tmp_path):
    path = tmp_path / f"clip.{RARE[name]}"
    soundfile.write(path, tone(8000, 1.0), 8000, format=name)
    assert find_audio([tmp_path]) == [path]
    assert np.abs(read_audio(path, 8000).numpy() - tone(8000, 1.0)).max() < 0.02
    content = path.read_bytes()
    for share in (0.3, 0.6, 0.98):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(HearMwmaeError, match=r"truncated|damaged"):
            read_audio(path, 8000)


def test_a_format_that_says_no_length_is_read_as_far_as_it_goes(tmp_path):
    path = tmp_path / "clip.sf"
    soundfile.write(path, tone(8000, 1.0), 8000, format="IRCAM")
    path.write_bytes(path.read_bytes()[:10000])
    assert len(read_audio(path, 8000)) == pytest.approx(5000, abs=1024)  # less a header


@pytest.mark.parametrize(("samples", "whole"), [(0, True), (1 << 35, False)])
def test_a_flac_of_unknown_or_wrong_length(tmp_path, samples, whole):
    """Of its header's 36 bits for the number of samples, 0 says that nobody knew; none may ask for
    memory without end.
    """
    content = bytearray((AUDIO / "piano.flac").read_bytes())
    content[21] = content[21] & 0xF0 | samples >> 32
    content[22:26] = (samples & 0xFFFFFFFF).to_bytes(4, "big")
    path = tmp_path / "stream.flac"
    path.write_bytes(content)
    if whole:
        assert torch.equal(read_audio(path, 16000), read_audio(AUDIO / "piano.flac", 16000))
    else:
        reason = r"stream\.flac: only 2\.81 of 779\d+\.\d+ s .*truncated"
        with pytest.raises(HearMwmaeError, match=reason):
            read_audio(path, 16000)
