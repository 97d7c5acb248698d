"""Exported models: the files give what the model gives, for every length and number of clips."""

import json
import sys

import onnxruntime
import pytest
import torch
from reference import AUDIO

from hear_mwmae import HearMwmaeError
from hear_mwmae.audio import read_audio
from hear_mwmae.config import DecoderConfig, EncoderConfig, FrontendConfig, ModelConfig
from hear_mwmae.embedder import Embedder
from hear_mwmae.export import OUTPUTS, ExportableEmbedder, export, largest_difference, open_exported

#: Below and above a sample, half a window, a hop, a window, the first centre, one and two time
#: steps, one chunk, and many.
LENGTHS = (1, 2, 63, 160, 199, 200, 201, 239, 240, 400, 639, 640, 641)
LENGTHS += (16000, 31999, 32000, 32001, 100000)


def noise(clips: int, samples: int) -> torch.Tensor:
    return torch.rand(clips, samples, generator=torch.Generator().manual_seed(samples)) * 2 - 1


@torch.no_grad()
def assert_same(run: object, model: Embedder, audio: torch.Tensor, tolerance: float) -> None:
    expected = model(audio), *model(audio, timestamps=True)
    for name, one, other in zip(OUTPUTS, run(audio), expected, strict=True):
        assert one.shape == other.shape and one.dtype == torch.float32, (name, audio.shape)
        assert (one - other).abs().max() <= tolerance, (name, audio.shape)


def in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's transform without its rounding."""
    stft = torch.stft

    def exact(x, n_fft, hop, win, window, **options):
        return stft(x.double(), n_fft, hop, win, window.double(), **options).to(torch.complex64)

    monkeypatch.setattr(torch, "stft", exact)


@pytest.fixture(scope="module")
def model(exported) -> Embedder:
    return exported[0]


@pytest.fixture(scope="module")
def onnx(exported):
    return open_exported(exported[1], threads=1)


def test_onnxruntime_is_torch_at_every_length(model, onnx):
    for number, samples in enumerate(LENGTHS):
        assert_same(onnx, model, noise(1 + number % 3, samples), 1e-4)


def test_onnxruntime_is_torch_on_sounds(model, onnx, monkeypatch):
    """Nearly empty bands show the rounding of torch's transform, so it is computed in float64."""
    in_float64(monkeypatch)
    clips = [read_audio(path, 16000)[None, :48000] for path in sorted(AUDIO.iterdir())]
    clips += [torch.sin(torch.arange(30000) / 6)[None], torch.full((1, 5000), 0.3)]
    for audio in (*clips, torch.zeros(2, 5000)):
        assert_same(onnx, model, audio, 1e-5)


def test_bad_samples_do_not_look_like_silence(onnx):
    audio = noise(2, 16000)
    audio[1, 100] = float("nan")
    scenes = onnx(audio)[0]
    assert scenes[0].isfinite().all() and scenes[1].isnan().all()


def test_a_file_says_what_it_is_and_is_told_from_other_models(model, exported, small_config):
    _, file = exported
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (audio,) = session.get_inputs()
    assert (audio.name, audio.shape) == ("audio", ["clips", "samples"])
    assert [value.name for value in session.get_outputs()] == list(OUTPUTS)
    config = json.loads(session.get_modelmeta().custom_metadata_map["config"])
    assert ModelConfig.from_dict(config) == model.config
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert largest_difference(Embedder(model.config), file) > 1e-2
    assert largest_difference(Embedder(small_config), file) == float("inf")


PLAIN = DecoderConfig(32, 1, 2)
ENCODER, CLS = EncoderConfig(32, 2, 4), EncoderConfig(32, 2, 4, cls_token=True)
OTHER = FrontendConfig(22050, (512, 441), 220, 40, 0.0, 11025.0)


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(CLS, PLAIN),
        ModelConfig(ENCODER, PLAIN, OTHER, input_frames=60, patch_size=(5, 8), mask_ratio=0.5),
    ],
    ids=["cls", "other front-end"],
)
def test_models_of_every_kind(config, monkeypatch):
    torch.manual_seed(0)
    model = Embedder(config, timestamps="official", trainable=True)
    module = ExportableEmbedder(model)
    in_float64(monkeypatch)
    for number, samples in enumerate((*range(1, 1300, 97), 13200, 40000)):
        assert_same(module, model, noise(1 + number % 2, samples), 1e-5)


def test_what_cannot_be_exported(small_config, tmp_path, monkeypatch):
    model = Embedder(small_config)
    path = tmp_path / "model.onnx"
    with pytest.raises(HearMwmaeError, match=r"must end in \.onnx, got .*model\.pt$"):
        export(model, tmp_path / "model.pt")
    with pytest.raises(HearMwmaeError, match="there is no folder"):
        export(model, tmp_path / "nowhere" / "model.onnx")
    with pytest.raises(HearMwmaeError, match="bfloat16"):
        export(Embedder(small_config, dtype="bfloat16"), path)
    with pytest.raises(HearMwmaeError, match="on meta"):
        export(Embedder(small_config).to("meta"), path)
    with monkeypatch.context() as patch:
        patch.setattr("hear_mwmae.export.ONNX_BYTES", 1000)
        with pytest.raises(HearMwmaeError, match=r"more than an \.onnx file holds"):
            export(model, path)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(HearMwmaeError, match=r"needs onnxscript: pip install '\.\[onnx\]'"):
        export(model, path)
    assert not list(tmp_path.iterdir())
