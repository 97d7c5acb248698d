"""What callers pass as audio: layouts, rates, kinds of arrays, files and clips of data sets, and
what cannot be read.
"""

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
def expected(small_model) -> torch.Tensor:
    return small_model.embed(CLIP)


@pytest.mark.parametrize("layout", [(16000, 2), (9, 8)])
def test_samples_before_channels_are_refused(small_model, layout):
    """`soundfile.read` returns this layout: it would be thousands of clips of two samples."""
    audio = np.zeros(layout, np.float32)
    message = r"looks like \(samples, channels\), where \(clips, samples\) is expected"
    with pytest.raises(ValueError, match=message):
        small_model.embed(audio)
    with pytest.raises(ValueError, match=message):
        hear_mwmae.get_scene_embeddings(torch.from_numpy(audio), small_model)
    assert len(small_model.embed(np.zeros((9, 9), np.float32))) == 9


@pytest.mark.parametrize("rate", [True, 0, -1, 16000.0, "16000", 1 << 40, [16000, 8000]])
def test_other_rates_are_refused(small_model, rate):
    with pytest.raises(ValueError, match="sample_rate must be"):
        small_model.embed(CLIP, rate)


@pytest.mark.parametrize("kind", [bool, np.int16, object, np.complex64])
def test_arrays_of_other_kinds_are_refused_by_one_message(small_model, kind):
    with pytest.raises(ValueError, match=r"audio must be floating point within \[-1, 1\], got "):
        small_model.embed(np.zeros(100, kind))


def test_arrays_of_any_floats_are_embedded_without_a_warning(small_model, expected):
    array = CLIP.numpy()
    read_only = array.copy()
    read_only.flags.writeable = False
    kinds = [read_only, array.astype(">f4"), array.astype(np.float64), np.repeat(array, 2)[::2]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(torch.equal(small_model.embed(kind), expected) for kind in kinds)


def test_integers_as_floats_are_warned_of(small_model):
    with pytest.warns(UserWarning, match=r"audio reaches 3\.28e\+04, where \[-1, 1\] is expected"):
        small_model.embed(CLIP * 32767)


def test_clips_are_encoded_together_for_timestamps_too(small_model):
    sizes = []
    handle = small_model.encoder.register_forward_pre_hook(
        lambda module, args: sizes.append(len(args[0]))
    )
    clips = [noise(n, n) for n in (5, 9000, 40000, 100)]
    steps, times = small_model.embed(clips, timestamps=True)
    handle.remove()
    assert sizes == [5]
    for clip, features, moments in zip(clips, steps, times, strict=True):
        alone, alone_times = small_model(clip[None], timestamps=True)
        torch.testing.assert_close(features, alone[0], atol=1e-5, rtol=1e-5)
        assert torch.equal(moments, alone_times[0])


PIANO = AUDIO / "piano.flac"


class Answer:
    """What a server sends: it can be read, and no more."""

    def __init__(self, content: bytes) -> None:
        self.file = io.BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        return self.file.read(size)


class DamagedDecoder:
    def get_all_samples(self) -> SimpleNamespace:
        raise RuntimeError("Could not decode\nC++ stack trace")


class Decoder:
    """As torchcodec's: all samples of all channels, at the rate of the file."""

    def get_all_samples(self) -> SimpleNamespace:
        samples, rate = soundfile.read(PIANO, dtype="float32", always_2d=True)
        return SimpleNamespace(data=torch.from_numpy(samples.T.copy()), sample_rate=rate)


@pytest.fixture(scope="module")
def piano(small_model) -> torch.Tensor:
    return small_model.embed(PIANO)


def test_clips_of_all_kinds_in_one_list(small_model, piano, expected):
    content = PIANO.read_bytes()
    clips = [
        PIANO,
        str(PIANO),
        content,
        bytearray(content),
        io.BytesIO(content),
        Answer(content),
        {"bytes": content, "path": "elsewhere.flac"},
        {"bytes": None, "path": str(PIANO)},
    ]
    scenes = small_model.embed(iter([*clips, CLIP, {"array": CLIP, "sampling_rate": 16000}]))
    assert (scenes[:-2] - piano).abs().max() < 1e-5
    assert (scenes[-2:] - expected).abs().max() < 1e-5


def test_a_decoder_has_its_own_rate_and_channels(small_model, piano):
    assert (small_model.embed(Decoder(), 8000) - piano).abs().max() < 1e-4


def test_every_decoded_clip_has_its_own_rate(small_model):
    """Whatever rate arrays have."""
    samples, rates = noise(9000).numpy(), (8000, 16000, 44100)
    dicts = [{"array": samples, "sampling_rate": rate} for rate in rates]
    expected = torch.cat([small_model.embed(samples, rate) for rate in rates])
    assert (small_model.embed(dicts, 22050) - expected).abs().max() < 1e-5
    stereo = {"array": np.stack([samples * 0.5, samples * 1.5]), "sampling_rate": 8000}
    assert (small_model.embed(stereo) - expected[0]).abs().max() < 1e-5
    listed = {"array": samples.tolist(), "sampling_rate": torch.tensor(8000)}
    assert (small_model.embed([listed, samples], 44100) - expected[[0, 2]]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ({"array": CLIP}, "an audio dict with an array needs its sampling_rate in Hz"),
        ({"array": CLIP, "sampling_rate": 0}, "sample_rate must be a whole number of Hz.*got 0"),
        (
            {"array": np.zeros((999, 2), "f4"), "sampling_rate": 8000},
            "looks like .samples, channels",
        ),
        ({"array": np.zeros((2, 999), int), "sampling_rate": 8000}, "floating point.*got int64"),
        (DamagedDecoder(), "cannot be decoded: Could not decode$"),
        ({"audio": b"", "label": 3}, "bytes or path, got the keys audio, label"),
        ({"bytes": b"RIFF", "path": "a.wav"}, "a.wav: not an audio file, or damaged"),
        (b"", "audio: an empty file"),
        (np.array(["a.wav"], object), "got object: give files as a list"),
        (io.StringIO("text"), "audio: opened as text.*open it with 'rb'"),
        (None, r"a clip must be.*or tensor \(sample_rate=16000 unless it is given\), got None"),
        ((CLIP, 16000), "clip 1: a clip must be a path.*got 16000"),
        ([CLIP, CLIP * torch.nan], "clip 1: audio holds NaN or infinity$"),
    ],
)
def test_the_message_of_what_is_no_clip(small_model, clip, message):
    with pytest.raises(hear_mwmae.HearMwmaeError, match=message):
        small_model.embed(clip if isinstance(clip, tuple | list | dict) else [clip])


def test_files_are_as_loud_as_arrays_may_be(small_model, tmp_path):
    """What is refused and warned of as an array is so as a file."""
    for name, peak in (("integers.wav", 30000), ("huge.wav", 1e20)):
        soundfile.write(tmp_path / name, CLIP.numpy() * peak, 16000, subtype="FLOAT")
    with pytest.warns(UserWarning, match="audio reaches"):
        small_model.embed(tmp_path / "integers.wav")
    with pytest.raises(hear_mwmae.HearMwmaeError, match=r"huge\.wav: holds samples as large as 1e"):
        small_model.embed(tmp_path / "huge.wav")


def test_skipped_clips_keep_their_rows(small_model, expected, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    clips = [CLIP * torch.nan, tmp_path / "bad.wav", CLIP]
    with pytest.warns(UserWarning) as caught:
        scenes = small_model.embed(iter(clips), errors="skip")
    assert scenes[:2].isnan().all() and (scenes[2] - expected).abs().max() < 1e-5
    (warning,) = caught
    nan, bad = str(warning.message).splitlines()
    assert nan.startswith("not embedded: clip 0: audio holds NaN") and "bad.wav: not an" in bad
    with pytest.warns(UserWarning):
        steps, times = small_model.embed(clips, timestamps=True, errors="skip")
    assert [features.shape for features in steps] == [(0, 160), (0, 160), (31, 160)]
    assert list(map(len, times)) == [0, 0, 31]


def test_mistakes_of_the_caller_are_not_skipped(small_model):
    with pytest.raises(ValueError, match="the list of clips is empty"):
        small_model.embed([], errors="skip")
    with pytest.raises(ValueError, match="errors must be one of raise, skip, got 'ignore'"):
        small_model.embed(CLIP, errors="ignore")
    with pytest.raises(ValueError, match="sample_rate must be"):
        small_model.embed([CLIP], "fast", errors="skip")
