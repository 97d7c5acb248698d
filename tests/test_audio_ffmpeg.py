"""Audio files that libsndfile does not read, through FFmpeg."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
import torch
from audio_files import encode, tone

from hear_mwmae import HearMwmaeError
from hear_mwmae.audio import find_audio, read_audio

#: An ending -> what FFmpeg writes it with.
FFMPEG = {
    ".m4a": ("aac", None),
    ".mp4": ("alac", None),
    ".mov": ("pcm_s16le", None),
    ".aac": ("aac", "adts"),
    ".webm": ("libopus", None),
    ".mka": ("flac", "matroska"),
    ".wma": ("wmav2", "asf"),
    ".ac3": ("ac3", None),
    ".amr": ("libopencore_amrnb", None),
    ".tta": ("tta", None),
    ".wv": ("wavpack", None),
    ".caf": ("alac", None),  # libsndfile knows the container, and not the coding
}

RATES = {".amr": 8000, ".webm": 48000}


@pytest.mark.parametrize("suffix", FFMPEG)
def test_what_libsndfile_cannot_read_is_read_by_ffmpeg(tmp_path, suffix):
    codec, container = FFMPEG[suffix]
    rate, audio = RATES.get(suffix, 44100), tone(RATES.get(suffix, 44100), 2.0)
    path = encode(tmp_path / f"clip{suffix}", audio, rate, codec, container)
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.info(path)
    assert find_audio([tmp_path]) == [path]
    read = read_audio(path, 16000)
    assert len(read) / 16000 == pytest.approx(2.0, abs=0.1)
    spectrum = torch.fft.rfft(read * torch.hann_window(len(read))).abs()
    assert spectrum.argmax().item() * 16000 / len(read) == pytest.approx(440, abs=1)
    assert torch.equal(read_audio(io.BytesIO(path.read_bytes()), 16000), read)
    content = path.read_bytes()
    for share in (0.3, 0.6, 0.9):
        path.write_bytes(content[: int(len(content) * share)])
        if suffix == ".ac3":  # whole packets, and no header: nothing is missing from what is there
            continue
        with pytest.raises(HearMwmaeError, match=r"truncated|damaged"):
            read_audio(path, 16000)


def test_the_content_counts_and_not_the_name(tmp_path):
    path = encode(tmp_path / "clip.m4a", tone(16000, 1.0), 16000, "aac")
    expected = read_audio(path, 16000)
    for name in ("clip", "clip.wav"):
        path = path.rename(tmp_path / name)
        assert torch.equal(read_audio(path, 16000), expected)
    soundfile.write(tmp_path / "wav.m4a", tone(16000, 1.0), 16000, format="WAV", subtype="FLOAT")
    assert np.allclose(read_audio(tmp_path / "wav.m4a", 16000), tone(16000, 1.0), atol=1e-6)


def test_a_playlist_opens_no_other_file(tmp_path):
    """FFmpeg would follow what it names, wherever that is."""
    encode(tmp_path / "secret.aac", tone(16000, 1.0), 16000, "aac", "adts")
    secret = tmp_path / "secret.aac"
    lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:1", "#EXTINF:1,", str(secret), "#EXT-X-ENDLIST", ""]
    (tmp_path / "list.m4a").write_text("\n".join(lines))
    with pytest.raises(HearMwmaeError, match="not an audio file"):
        read_audio(tmp_path / "list.m4a", 16000)
