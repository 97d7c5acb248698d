"""Audio files that only FFmpeg reads, and files as public bug reports have them: joined, streamed,
tagged, damaged.
"""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from audio_files import encode, tone

from hear_mwmae import HearMwmaeError, decoding
from hear_mwmae.audio import find_audio, read_audio
from hear_mwmae.data.sources import find_inputs, read_item

CASES = Path(__file__).parent / "data" / "audio_cases"


def sound(rate: int = 16000, seconds: float = 3.0) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(round(rate * seconds))
    return tone(rate, seconds) + 0.02 * noise


def written(
    form: str, rate: int = 16000, coding: str | None = None, channels: int = 1, seconds: float = 3.0
) -> bytes:
    """What libsndfile writes."""
    audio = np.stack([sound(rate, seconds)] * channels, 1)
    stream = io.BytesIO()
    soundfile.write(stream, audio, rate, coding, format=form)
    return stream.getvalue()


def wav(size: int) -> bytes:
    """A WAV whose header says that there are ``size`` bytes of samples."""
    content = bytearray(written("WAV", coding="PCM_16"))
    content[40:44] = struct.pack("<I", size)
    return bytes(content)


def pages(ogg: bytes) -> list[bytes]:
    parts = []
    while ogg:
        size = 27 + ogg[26] + sum(ogg[27 : 27 + ogg[26]])
        parts.append(ogg[:size])
        ogg = ogg[size:]
    return parts


Encoded = Callable[..., bytes]


@pytest.fixture
def encoded(tmp_path) -> Encoded:
    """The bytes that FFmpeg writes."""

    def by_ffmpeg(codec: str, container: str, rate: int = 16000, **options: str) -> bytes:
        path = tmp_path / "encoded"
        return encode(path, sound(rate), rate, codec, container, **options).read_bytes()

    return by_ffmpeg


def mp3(encoded: Encoded, **options: str) -> bytes:
    return encoded("libmp3lame", "mp3", **options)  # type: ignore[arg-type]


#: What the file is -> its bytes, and its seconds.
WHOLE: dict[str, tuple[Callable[[Encoded], bytes], float]] = {
    # Joined: text-to-speech services, web radio, recorders.
    "ten MP3, the first with a Xing header": (lambda e: mp3(e) * 10, 31.0),
    "MP3 of two rates": (lambda e: mp3(e) + mp3(e, rate=44100), 6.1),
    "two streams of Vorbis": (lambda e: written("OGG") * 2, 6.0),
    # Tags.
    "FLAC with an ID3v1 tag": (lambda e: written("FLAC") + b"TAG".ljust(128), 3.0),
    "WAV with a tag that is no UTF-8": (
        lambda e: wav(0).replace(b"data", b"LIST\x0e\0\0\0INFOINAM\2\0\0\0\xe9\0data", 1),
        3.0,
    ),
    # MP3 that does not begin with a frame.
    "MP3 behind junk": (lambda e: bytes(range(200, 256)) * 50 + mp3(e), 3.1),
    # Its bit rate varies, and nothing says how long it is.
    "MP3 without a Xing header": (lambda e: mp3(e, write_xing="0", quality="500"), 3.1),
    "AMR": (lambda e: e("libopencore_amrnb", "amr", 8000), 3.0),
    # A placeholder for the size: streams.
    "WAV of 0x7FFFFFFF bytes": (lambda e: wav(0x7FFFFFFF), 3.0),
    "WAV of 2,000,000,000 bytes": (lambda e: wav(2_000_000_000), 3.0),
    "WAV of 0 bytes": (lambda e: wav(0), 3.0),
    # Codings that libsndfile does not know, or whose length it guesses.
    "MP3 in WAV": (lambda e: e("libmp3lame", "wav"), 3.1),
    "AAC in WAV": (lambda e: (CASES / "aac.wav").read_bytes(), 3.1),
    "Vorbis beside a skeleton": (lambda e: (CASES / "skeleton.oga").read_bytes(), 3.0),
    # One page whose end is trimmed: voice notes, and short effects.
    "Opus of one page": (lambda e: (CASES / "short.opus").read_bytes(), 0.75),
    # A recording that began during a broadcast.
    "Opus from its second page on": (
        lambda e: b"".join(np.delete(np.array(pages(written("OGG", 48000, "OPUS")), object), 2)),
        2.0,
    ),
}


@pytest.mark.parametrize("case", WHOLE)
def test_all_that_is_there_is_read(tmp_path, encoded, case):
    make, seconds = WHOLE[case]
    content = make(encoded)
    path = tmp_path / "clip"
    path.write_bytes(content)
    audio = read_audio(path, 16000)
    assert len(audio) / 16000 == pytest.approx(seconds, abs=0.12 * max(seconds / 3, 1))
    loud = [float(part.square().mean()) > 0.04 for part in audio.split(1600)]
    assert np.mean(loud) > 0.8  # silence between joined MP3
    assert torch.equal(read_audio(io.BytesIO(content), 16000), audio)
    with open(path, "rb") as file:
        assert torch.equal(read_audio(file, 16000), audio)


def test_vorbis_of_one_page_has_the_samples_of_its_header():
    """FFmpeg ends it a block too early or too late."""
    for samples in (800, 4800, 30000):
        content = io.BytesIO(written("OGG", seconds=samples / 16000))
        assert len(read_audio(content, 16000)) == samples


DAMAGED: dict[str, Callable[[Encoded], bytes]] = {
    "m4a cut in half": lambda e: half(e("aac", "ipod", movflags="faststart")),
    "MP3 with a Xing header cut in half": lambda e: half(mp3(e)),
    "FLAC with a hole": lambda e: hole(written("FLAC")),
    "FLAC with a wrong bit": lambda e: wrong_bit(written("FLAC")),
    "Opus without a page": lambda e: hole(written("OGG", 48000, "OPUS")),
    "WAV cut in half": lambda e: half(wav(96000)),
    "Vorbis of two rates": lambda e: written("OGG") + written("OGG", 44100),
    "Opus of one and two channels": lambda e: (
        written("OGG", 48000, "OPUS") + written("OGG", 48000, "OPUS", 2)
    ),
    "a coding that nothing reads": lambda e: wav(96000).replace(
        b"\x10\0\0\0\1\0", b"\x10\0\0\0\x34\x12"
    ),
}


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def hole(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(100) + content[middle + 100 :]


def wrong_bit(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    return bytes(changed)


@pytest.mark.parametrize("case", DAMAGED)
def test_what_is_missing_is_named(tmp_path, encoded, case):
    path = tmp_path / "clip.x"
    path.write_bytes(DAMAGED[case](encoded))
    with pytest.raises(
        HearMwmaeError, match=r"clip\.x: .*(truncated|damaged|holds no audio)"
    ) as caught:
        read_audio(path, 16000)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("value", "rate"), [(np.nan, 16000), (-np.inf, 44100)])
def test_samples_that_are_not_finite(tmp_path, value, rate):
    audio = sound(rate)
    audio[rate] = value
    soundfile.write(tmp_path / "nan.wav", audio, rate, subtype="FLOAT")
    with pytest.raises(HearMwmaeError, match=r"nan\.wav: holds NaN or infinity") as caught:
        read_audio(tmp_path / "nan.wav", 16000)
    assert len(str(caught.value).splitlines()) == 1
    (item,) = find_inputs([str(tmp_path / "nan.wav")]).items
    (recording,) = read_item(item, 16000)
    assert recording.waveform is None and recording.problem.startswith("holds NaN or infinity")


@pytest.mark.parametrize("coding", ["PCM_U8", "PCM_S8", "PCM_16", "PCM_24", "PCM_32", "DOUBLE"])
def test_samples_of_every_type_have_the_scale_of_libsndfile(coding):
    stream = io.BytesIO(written("AIFF", coding=coding, channels=2))
    expected, _ = soundfile.read(stream, dtype="float32")
    assert np.array_equal(read_audio(stream, 16000), expected.mean(axis=1))


def test_blocks_are_small_whatever_a_header_says(monkeypatch):
    asked, read = [], soundfile.SoundFile.read

    def counted(self: soundfile.SoundFile, frames: int, **options: object) -> np.ndarray:
        asked.append(frames * self.channels)
        return read(self, frames, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    stream = io.BytesIO()
    soundfile.write(stream, np.full((1000, 1024), 0.5), 16000, "PCM_16", format="WAV")
    assert len(read_audio(stream, 16000)) == 1000 and 0 < max(asked) <= decoding.BLOCK_SAMPLES


@pytest.mark.parametrize("channels", [7, 8])
def test_many_channels(channels):
    """More than seven in planes of their own, which PyAV 18 does not read: 7.1, for example."""
    content = io.BytesIO(written("OGG", 48000, channels=channels))
    assert np.abs(read_audio(content, 48000).numpy() - sound(48000)).max() < 0.1


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
