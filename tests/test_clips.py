"""What callers pass as audio: layouts, rates, kinds of arrays, files and clips of data sets, and
what cannot be read.
"""

from __future__ import annotations

import io
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from reference import AUDIO
from test_hear_api import noise

import hear_mwmae

CLIP = noise(20000)


@pytest.fixture(scope="module")
def expected(embedded_model) -> torch.Tensor:
    return embedded_model.embed(CLIP)


@pytest.mark.parametrize("layout", [(16000, 2), (9, 8), (100, 1)])
def test_samples_before_channels_are_refused(embedded_model, layout):
    """`soundfile.read` returns this layout: it would be thousands of clips of two samples."""
    audio = np.zeros(layout, np.float32)
    message = r"looks like \(samples, channels\), where \(clips, samples\) is expected"
    with pytest.raises(ValueError, match=message):
        embedded_model.embed(audio)
    for get_embeddings in (hear_mwmae.get_scene_embeddings, hear_mwmae.get_timestamp_embeddings):
        with pytest.raises(ValueError, match=message):
            get_embeddings(torch.from_numpy(audio), embedded_model)


def test_many_short_clips_are_still_clips(embedded_model):
    assert len(embedded_model.embed(np.zeros((9, 9), np.float32))) == 9


@pytest.mark.parametrize("rate", [True, 0, -1, 16000.0, "16000", 1 << 40, [16000, 8000]])
def test_other_rates_are_refused(embedded_model, rate):
    with pytest.raises(ValueError, match="sample_rate must be"):
        embedded_model.embed(CLIP, rate)


@pytest.mark.parametrize("kind", [bool, np.int16, np.uint8, object, np.complex64])
def test_arrays_of_other_kinds_are_refused_by_one_message(embedded_model, kind):
    with pytest.raises(ValueError, match=r"audio must be floating point within \[-1, 1\], got "):
        embedded_model.embed(np.zeros(100, kind))


@pytest.mark.parametrize("change", ["read-only", "big-endian", "float64", "strided"])
def test_arrays_of_any_floats_are_embedded_without_a_warning(embedded_model, expected, change):
    array = CLIP.numpy().copy()
    if change == "read-only":
        array.flags.writeable = False
    elif change == "big-endian":
        array = array.astype(">f4")
    elif change == "float64":
        array = array.astype(np.float64)
    else:
        array = np.repeat(array, 2)[::2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(embedded_model.embed(array), expected)


def test_integers_as_floats_are_warned_of(embedded_model):
    with pytest.warns(UserWarning, match=r"audio reaches 3\.28e\+04, where \[-1, 1\] is expected"):
        embedded_model.embed(CLIP * 32767)


def test_clips_are_encoded_together_for_timestamps_too(embedded_model):
    sizes = []
    handle = embedded_model.encoder.register_forward_pre_hook(
        lambda module, args: sizes.append(len(args[0]))
    )
    clips = [noise(n, n) for n in (5, 9000, 40000, 100)]
    steps, times = embedded_model.embed(clips, timestamps=True)
    handle.remove()
    assert sizes == [5]
    for clip, features, moments in zip(clips, steps, times, strict=True):
        alone, alone_times = embedded_model.timestamp_embeddings(clip[None])
        torch.testing.assert_close(features, alone[0], atol=1e-5, rtol=1e-5)
        assert torch.equal(moments, alone_times[0])


PIANO = AUDIO / "piano.flac"


@pytest.fixture(scope="module")
def piano(embedded_model) -> torch.Tensor:
    return embedded_model.embed(PIANO)


class Answer:
    """What a server sends: it can be read, and no more."""

    def __init__(self, content: bytes) -> None:
        self.file = io.BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        return self.file.read(size)


class Decoder:
    """As torchcodec's: all samples of all channels, at the rate of the file."""

    def get_all_samples(self) -> SimpleNamespace:
        samples, rate = soundfile.read(PIANO, dtype="float32", always_2d=True)
        return SimpleNamespace(data=torch.from_numpy(samples.T.copy()), sample_rate=rate)


class DamagedDecoder:
    def get_all_samples(self) -> SimpleNamespace:
        raise RuntimeError("Could not decode\nC++ stack trace")


@pytest.mark.parametrize("kind", ["bytes", "bytearray", "file", "stream", "undecoded", "path"])
def test_files_and_undecoded_clips_are_embedded_as_the_path_is(embedded_model, piano, kind):
    content = PIANO.read_bytes()
    clip = {
        "bytes": content,
        "bytearray": bytearray(content),
        "file": io.BytesIO(content),
        "stream": Answer(content),
        "undecoded": {"bytes": content, "path": "elsewhere.flac"},
        "path": {"bytes": None, "path": str(PIANO)},
    }[kind]
    assert torch.equal(embedded_model.embed(clip), piano)


def test_a_decoder_has_its_own_rate_and_channels(embedded_model, piano):
    assert (embedded_model.embed(Decoder(), 8000) - piano).abs().max() < 1e-4


def test_every_decoded_clip_has_its_own_rate(embedded_model):
    """Whatever rate arrays have."""
    samples, rates = noise(9000).numpy(), (8000, 16000, 44100)
    dicts = [{"array": samples, "sampling_rate": rate} for rate in rates]
    expected = torch.cat([embedded_model.embed(samples, rate) for rate in rates])
    assert (embedded_model.embed(dicts, 22050) - expected).abs().max() < 1e-5
    listed = {"array": samples.tolist(), "sampling_rate": torch.tensor(8000)}
    assert (embedded_model.embed([listed, samples], 44100) - expected[[0, 2]]).abs().max() < 1e-5


def test_clips_of_all_kinds_in_one_list(embedded_model, piano, expected):
    clips = [PIANO, PIANO.read_bytes(), CLIP, {"array": CLIP, "sampling_rate": 16000}, str(PIANO)]
    both = torch.cat([piano, piano, expected, expected, piano])
    assert (embedded_model.embed(iter(clips)) - both).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ({"array": CLIP}, "an audio dict with an array needs its sampling_rate in Hz"),
        ({"array": CLIP, "sampling_rate": 0}, "sample_rate must be a whole number of Hz.*got 0"),
        ({"audio": b"", "label": 3}, "bytes or path, got the keys audio, label"),
        ({"bytes": b"RIFF", "path": "a.wav"}, "a.wav: not an audio file, or damaged"),
        (b"", "audio: not an audio file, or damaged"),
        (io.StringIO("text"), "audio: opened as text.*open it with 'rb'"),
        (DamagedDecoder(), "cannot be decoded: Could not decode$"),
        (
            None,
            r"a clip must be.*or tensor \(sample_rate=16000 unless it is given\), got None",
        ),
        ((CLIP, 16000), "clip 1: a clip must be a path.*got 16000"),
        ([CLIP, CLIP * torch.nan], "clip 1: audio holds NaN or infinity$"),
    ],
)
def test_the_message_of_what_is_no_clip(embedded_model, clip, message):
    with pytest.raises(hear_mwmae.HearMwmaeError, match=message):
        embedded_model.embed(clip if isinstance(clip, tuple | list | dict) else [clip])


def test_files_are_as_loud_as_arrays_may_be(embedded_model, tmp_path):
    """What is refused and warned of as an array is so as a file."""
    for name, peak in (("integers.wav", 30000), ("huge.wav", 1e20)):
        soundfile.write(tmp_path / name, CLIP.numpy() * peak, 16000, subtype="FLOAT")
    with pytest.warns(UserWarning, match="audio reaches"):
        embedded_model.embed(tmp_path / "integers.wav")
    with pytest.raises(hear_mwmae.HearMwmaeError, match=r"huge\.wav: holds samples as large as 1e"):
        embedded_model.embed(tmp_path / "huge.wav")


def test_skipped_clips_keep_their_rows(embedded_model, expected, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    clips = [None, CLIP, CLIP * torch.nan, tmp_path / "bad.wav", CLIP, "nowhere.wav"]
    good, bad = [1, 4], [0, 2, 3, 5]
    with pytest.warns(UserWarning) as caught:
        scenes = embedded_model.embed(iter(clips), errors="skip")
    assert scenes.shape == (6, embedded_model.scene_embedding_size)
    assert scenes[bad].isnan().all() and (scenes[good] - expected).abs().max() < 1e-5
    (warning,) = caught
    lines = str(warning.message).splitlines()
    assert [line.split(": ")[:2] for line in lines] == [["not embedded", f"clip {n}"] for n in bad]
    assert "bad.wav: not an audio file, or damaged" in lines[2]
    with pytest.warns(UserWarning):
        steps, times = embedded_model.embed(clips, timestamps=True, errors="skip")
    size = embedded_model.timestamp_embedding_size
    assert [features.shape for features in steps] == [(len(moments), size) for moments in times]
    assert [len(moments) > 0 for moments in times] == [n in good for n in range(6)]


def test_nothing_but_skipped_clips(embedded_model):
    with pytest.warns(UserWarning, match=r"^not embedded: nowhere.wav: no such file or directory$"):
        assert embedded_model.embed("nowhere.wav", errors="skip").isnan().all()
    with pytest.raises(ValueError, match="the list of clips is empty"):
        embedded_model.embed([], errors="skip")
    with pytest.raises(ValueError, match="errors must be one of raise, skip, got 'ignore'"):
        embedded_model.embed(CLIP, errors="ignore")
    with pytest.raises(ValueError, match="sample_rate must be"):
        embedded_model.embed([CLIP], "fast", errors="skip")
