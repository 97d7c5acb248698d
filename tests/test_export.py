"""Exported models: the files give what the model gives, for every length and number of clips."""

from __future__ import annotations

import dataclasses
import json
import sys

import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from reference import AUDIO

from hear_mwmae import HearMwmaeError, load_model
from hear_mwmae.audio import read_audio
from hear_mwmae.cli import main
from hear_mwmae.config import DecoderConfig, EncoderConfig, FrontendConfig, ModelConfig
from hear_mwmae.embedder import Embedder
from hear_mwmae.export import OUTPUTS, ExportableEmbedder, export, largest_difference, open_exported

#: Below and above a sample, half a window, a hop, a window, the first centre, one and two time
#: steps, one chunk, and many.
LENGTHS = (
    1,
    2,
    63,
    160,
    199,
    200,
    201,
    239,
    240,
    400,
    639,
    640,
    641,
    16000,
    31999,
    32000,
    32001,
    100000,
    200000,
)


def noise(clips: int, samples: int) -> torch.Tensor:
    return torch.rand(clips, samples, generator=torch.Generator().manual_seed(samples)) * 2 - 1


def expected(model: Embedder, audio: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return model.scene_embeddings(audio), *model.timestamp_embeddings(audio)


def assert_same(
    ours: tuple[torch.Tensor, ...], theirs: tuple[torch.Tensor, ...], tolerance: float, what: object
) -> None:
    for name, a, b in zip(OUTPUTS, ours, theirs, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype == torch.float32, (
            what,
            name,
            a.shape,
            b.shape,
        )
        assert (a - b).abs().max() <= tolerance, (what, name, float((a - b).abs().max()))


def in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's transform without its rounding."""
    stft = torch.stft

    def exact(x, n_fft, hop, win, window, **options):
        return stft(x.double(), n_fft, hop, win, window.double(), **options).to(torch.complex64)

    monkeypatch.setattr(torch, "stft", exact)


@pytest.fixture(scope="module")
def all_pooled() -> Embedder:
    return load_model(pooling="mean+std+max")


@pytest.fixture(scope="module")
def onnx_file(all_pooled, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export(all_pooled, path)
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    return path


@pytest.fixture(scope="module")
def onnx(onnx_file):
    return open_exported(onnx_file, threads=1)


def test_onnxruntime_is_torch_at_every_length(all_pooled, onnx):
    for number, samples in enumerate(LENGTHS):
        audio = noise(1 if samples >= 100000 else 1 + number % 3, samples)
        assert_same(onnx(audio), expected(all_pooled, audio), 1e-4, tuple(audio.shape))


def test_onnxruntime_is_torch_on_sounds(all_pooled, onnx, monkeypatch):
    """Nearly empty bands show the rounding of torch's transform: with it in float64 both agree to
    1e-5.
    """
    clips = {path.name: read_audio(path, 16000)[None, :48000] for path in sorted(AUDIO.iterdir())}
    clips["tone"] = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(30000) / 16000)[None]
    clips |= {"silence": torch.zeros(2, 5000), "constant": torch.full((1, 5000), 0.3)}
    size = all_pooled.timestamp_embedding_size
    for name, audio in clips.items():
        assert (
            onnx(audio)[0][:, :size] - all_pooled.scene_embeddings(audio)[:, :size]
        ).abs().max() < 1e-4, name
    in_float64(monkeypatch)
    for name, audio in clips.items():
        assert_same(onnx(audio), expected(all_pooled, audio), 1e-5, name)


def test_bad_samples_do_not_look_like_silence(onnx):
    audio = noise(2, 16000)
    audio[1, 100] = float("nan")
    scenes = onnx(audio)[0]
    assert scenes[0].isfinite().all() and scenes[1].isnan().all()


def test_an_onnx_file_says_what_it_takes_and_gives(all_pooled, onnx_file):
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    shapes = {value.name: value.shape for value in (*session.get_inputs(), *session.get_outputs())}
    assert shapes == {
        "audio": ["clips", "samples"],
        "scene_embeddings": ["clips", 2880],
        "timestamp_embeddings": ["clips", "steps", 960],
        "timestamps": ["clips", "steps"],
    }
    config = json.loads(session.get_modelmeta().custom_metadata_map["config"])
    assert (
        ModelConfig.from_dict(config) == all_pooled.config
        and config["frontend"]["sample_rate"] == 16000
    )


def test_a_program_of_torch_export_is_the_model(small_config, tmp_path):
    """Weights that train are exported, too, and the model is left as it was.

    Another model is told apart.
    """
    torch.manual_seed(0)
    model = Embedder(small_config, pooling="max+mean", trainable=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export(model, tmp_path / "model.pt2")
    assert all(weight.requires_grad for weight in model.encoder.parameters()) and not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    extra = {"config.json": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    assert ModelConfig.from_dict(json.loads(extra["config.json"])) == model.config
    run = open_exported(tmp_path / "model.pt2")
    for number, samples in enumerate(LENGTHS):
        audio = noise(1 + number % 3, samples)
        with torch.no_grad():
            assert_same(run(audio), expected(model, audio), 1e-4, tuple(audio.shape))
    assert largest_difference(model, tmp_path / "model.pt2") < 1e-4
    assert (
        largest_difference(Embedder(small_config, pooling="max+mean"), tmp_path / "model.pt2")
        > 1e-2
    )
    assert largest_difference(Embedder(small_config), tmp_path / "model.pt2") == float("inf")


ENCODER = EncoderConfig(32, 2, 4)
PLAIN = DecoderConfig(32, 1, 2)


OTHER_FRONTEND = FrontendConfig(22050, (512, 441), 220, 40, 0.0, 11025.0)


@pytest.mark.parametrize(
    ("config", "timestamps"),
    [
        (ModelConfig(dataclasses.replace(ENCODER, cls_token=True), PLAIN), "centred"),
        (
            ModelConfig(
                dataclasses.replace(ENCODER, window_sizes=(2, 10, 50, 0), shift_windows=True), PLAIN
            ),
            "official",
        ),
        (
            ModelConfig(
                ENCODER, PLAIN, OTHER_FRONTEND, input_frames=60, patch_size=(5, 8), mask_ratio=0.5
            ),
            "centred",
        ),
    ],
    ids=["cls", "shifted windows, official timestamps", "other front-end"],
)
def test_models_of_every_kind(config, timestamps, monkeypatch):
    torch.manual_seed(0)
    model = Embedder(config, timestamps=timestamps)
    module = ExportableEmbedder(model)
    in_float64(monkeypatch)
    for number, samples in enumerate((*range(1, 1300, 97), 13200, 40000)):
        audio = noise(1 + number % 2, samples)
        with torch.no_grad():
            assert_same(module(audio), expected(model, audio), 1e-5, samples)


def test_windows_and_official_timestamps_are_exported(tmp_path):
    """And the plans that the attention keeps between calls hold no tensors of the tracer."""
    torch.manual_seed(0)
    encoder = dataclasses.replace(ENCODER, window_sizes=(25, 5, 0, 0), shift_windows=True)
    model = Embedder(ModelConfig(encoder, PLAIN, mask_ratio=0.5), timestamps="official")
    export(model, tmp_path / "model.onnx")
    assert largest_difference(model, tmp_path / "model.onnx") < 1e-4


def test_the_command(saved_model, tmp_path):
    arguments = [
        "export",
        str(saved_model),
        "-o",
        str(tmp_path / "model.pt2"),
        "--pooling",
        "std+max",
    ]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "model.pt2: " in result.output and "differs from the model by at most" in result.output
    run = open_exported(tmp_path / "model.pt2")
    model = load_model(saved_model, pooling="std+max")
    assert_same(run(noise(2, 20000)), expected(model, noise(2, 20000)), 1e-4, "command")


def test_what_cannot_be_exported(small_config, tmp_path, monkeypatch):
    model = Embedder(small_config)
    with pytest.raises(HearMwmaeError, match=r"must end in \.onnx or \.pt2, got .*model\.pt$"):
        export(model, tmp_path / "model.pt")
    with pytest.raises(HearMwmaeError, match=r"float32, got a model in torch\.bfloat16"):
        export(Embedder(small_config, dtype="bfloat16"), tmp_path / "model.onnx")
    with pytest.raises(HearMwmaeError, match=r"cannot write .*nowhere/model\.onnx: No such file"):
        export(model, tmp_path / "nowhere" / "model.onnx")
    with pytest.raises(HearMwmaeError, match=r"from the CPU, got one on meta"):
        export(Embedder(small_config).to("meta"), tmp_path / "model.pt2")
    monkeypatch.setattr("hear_mwmae.export.ONNX_BYTES", 1000)
    with pytest.raises(HearMwmaeError, match=r"more than an \.onnx file holds"):
        export(model, tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(HearMwmaeError, match=r"needs onnxscript: pip install '\.\[onnx\]'"):
        export(model, tmp_path / "model.onnx")
    result = CliRunner().invoke(main, ["export", "-o", str(tmp_path / "model.txt")])
    assert (
        result.exit_code == 1
        and result.output.startswith("Error: ")
        and result.output.count("\n") == 1
    )
    assert not list(tmp_path.iterdir())


def test_an_export_that_fails_leaves_the_old_file(small_config, tmp_path, monkeypatch):
    path = tmp_path / "model.pt2"
    path.write_bytes(b"old")

    def full(program, stream, **options):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.export, "save", full)
    with pytest.raises(OSError, match="No space left"):
        export(Embedder(small_config), path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
