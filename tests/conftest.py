"""Settings that must be in place before torch is imported, and fixtures shared by the tests."""

import os

# MKL picks its Fourier transform by processor, and their float32 roundings differ: in the nearly
# empty bands of a pure tone by 5e-3 after the logarithm, in a scene embedding by up to 3e-5. The
# authors' outputs were computed on the path of processors without AVX2 kernels of MKL's own (AMD's,
# for example). With this every x86 processor takes it, and parity shows to 1e-6.
os.environ["MKL_CBWR"] = "AVX"
# The workers of pytest-xdist share the cores, and so do the commands that their tests start.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
# Nothing in the tests may reach for the network.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import csv
import dataclasses
import shutil

import pytest
import soundfile
import torch
from click.testing import CliRunner
from hear_tasks import make_task
from reference import AUDIO

from hear_mwmae import load_model
from hear_mwmae.audio import read_audio
from hear_mwmae.cli import main
from hear_mwmae.config import DecoderConfig, EncoderConfig, ModelConfig, derive_window_sizes
from hear_mwmae.embedder import Embedder
from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.weights import save_model

torch.set_num_threads(min(2, int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))))


@pytest.fixture(scope="session")
def small_config() -> ModelConfig:
    """A model of the real kind, small enough to be built in every test."""
    windows = derive_window_sizes(250)
    return ModelConfig(
        EncoderConfig(32, 2, 2), DecoderConfig(32, 1, len(windows), window_sizes=windows)
    )


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory, small_config) -> Path:
    """The folder of a model with random weights. Not to be changed: see model_dir."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_model(folder, small_config, MaskedAutoencoder(small_config).state_dict())
    return folder


@pytest.fixture
def model_dir(saved_model, tmp_path) -> Path:
    """A copy of saved_model, for a test that damages it."""
    return shutil.copytree(saved_model, tmp_path / "model")


@pytest.fixture(scope="session")
def small_model(saved_model) -> Embedder:
    """That model, loaded."""
    return load_model(saved_model)


@pytest.fixture(scope="session")
def embedded_model() -> Embedder:
    """The model that the package carries."""
    return load_model()


@pytest.fixture(scope="session")
def exported(small_config, tmp_path_factory) -> tuple[Embedder, Path]:
    """A model with shifted windows, and the file that `hear-mwmae export` makes of it."""
    pytest.importorskip("onnxscript", reason="needs the onnx extra")
    torch.manual_seed(0)
    shifted = EncoderConfig(32, 2, 4, window_sizes=(25, 5, 0, 0), shift_windows=True)
    config = dataclasses.replace(small_config, encoder=shifted)
    folder = tmp_path_factory.mktemp("shifted")
    save_model(folder, config, MaskedAutoencoder(config).state_dict())
    file = tmp_path_factory.mktemp("exported") / "model.onnx"
    command = ["export", str(folder), "-o", str(file), "--pooling", "mean+std+max"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert "differs from the model by at most" in result.output
    return load_model(folder, pooling="mean+std+max"), file


@pytest.fixture(scope="session")
def data(audio_folder, tmp_path_factory) -> Path:
    """A data set of that folder: three clips of notes, one of effects."""
    # Only here: the other tests do without the packages of training.
    from hear_mwmae.training.pack import Packed, pack

    out = tmp_path_factory.mktemp("data") / "pack"
    packed = pack([str(audio_folder / "manifest.csv")], out)
    assert packed == Packed(4, pytest.approx(0.0077, abs=1e-3), 1)
    return out


@pytest.fixture(scope="session")
def audio_folder(tmp_path_factory) -> Path:
    """A folder as debian_audio leaves it: 16 kHz FLAC and a manifest.

    One clip is long, one shorter than a crop.
    """
    folder = tmp_path_factory.mktemp("audio")
    long = torch.cat(
        [read_audio(AUDIO / name, 16000) for name in ("piano.flac", "glass.mp3", "till.opus")] * 3
    )
    clips = {
        "long.flac": (long, "notes"),
        "crow.flac": (read_audio(AUDIO / "crow.wav", 16000), "effects"),
    }
    clips["silence.flac"] = torch.zeros(16000), "effects"
    with open(folder / "manifest.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "seconds", "package", "version", "kind", "licence"])
        for name, (audio, kind) in clips.items():
            soundfile.write(folder / name, audio.numpy(), 16000, subtype="PCM_16")
            writer.writerow([name, len(audio) / 16000, "some-package", "1.0", kind, "CC0-1.0"])
    return folder


@pytest.fixture(scope="session")
def task(tmp_path_factory) -> Path:
    """A HEAR task of three folds: low and high tones."""
    return make_task(tmp_path_factory.mktemp("tasks") / "tones", "multiclass", 0.5)


@pytest.fixture
def ray_cluster(monkeypatch):
    """Two processes of Ray on this machine."""
    ray = pytest.importorskip("ray")
    # They would wait for everything else on the machine.
    monkeypatch.setenv("RAY_worker_niceness", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()
