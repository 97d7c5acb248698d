"""The same assertions on the CPU and on a GPU, which `pytest -m gpu` selects; without one, those
are skipped.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from reference import AUDIO, load, reference_model, spectrogram, waveform
from safetensors.torch import load_file
from tiny_run import losses, tiny_recipe, write_recipe

import hear_mwmae
from hear_mwmae.config import preset
from hear_mwmae.embedder import Embedder
from hear_mwmae.training.loop import pretrain

ON_GPU = pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=ON_GPU)])
def device(request) -> Iterator[str]:
    """Products in full float32: TF32 has 10 bits."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield request.param
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("kind", ["mwmae", "mae"])
def test_parity(device, kind):
    """The training forward pass with its loss, and the HEAR functions, against the authors'
    outputs.
    """
    model = reference_model(kind).to(device)
    fixture = load(f"mae_forward_{kind}_tiny.npz")
    with torch.no_grad():
        out = model(spectrogram(4321).to(device), torch.from_numpy(fixture["noise"]).to(device))
    assert np.abs(out.pred.cpu().numpy() - fixture["pred"]).max() < 2e-5
    assert out.loss.item() == pytest.approx(float(fixture["loss_raw_f64"]), abs=2e-6)
    encoder = Embedder(preset(f"{kind}-tiny"))
    encoder.encoder.load_state_dict(model.encoder.state_dict())
    for label in ("0.50s", "3.37s"):
        scene = hear_mwmae.get_scene_embeddings(waveform(label), encoder.to(device))
        expected = load(f"hear_{kind}_tiny.npz")[f"{label}_scene"]
        assert scene.device.type == device
        assert np.abs(scene.cpu().numpy() - expected).max() < 2e-5


def test_batches_chunks_and_arrays(device):
    """An embedding depends on its clip alone, and arrays, files and tensors of the CPU are taken to
    the device.
    """
    model = hear_mwmae.load_model(device=device)
    generator = torch.Generator().manual_seed(0)
    clips = [0.1 * torch.randn(samples, generator=generator) for samples in (8000, 24000, 72000)]
    together = model.embed([*clips, AUDIO / "crow.wav"])
    for clip, row in zip([*clips, AUDIO / "crow.wav"], together, strict=True):
        assert torch.allclose(torch.as_tensor(model.embed(clip)), torch.as_tensor(row), atol=2e-5)
    one_by_one = hear_mwmae.load_model(device=device, max_batch=1)
    assert torch.allclose(one_by_one(clips[2][None]), model(clips[2][None]), atol=2e-5)
    steps, milliseconds = hear_mwmae.get_timestamp_embeddings(clips[2][None], model)
    assert steps.device.type == milliseconds.device.type == device
    assert steps.shape[:2] == milliseconds.shape


def test_training_resumes_to_the_same_bits(device, data, tmp_path):
    """And computes what the CPU does."""
    recipe = tiny_recipe(tmp_path, optimizer="adamw", steps=6)
    pretrain(recipe, data, tmp_path / "whole", device)
    shutil.copytree(tmp_path / "whole" / "checkpoints", tmp_path / "parts" / "checkpoints")
    (tmp_path / "parts" / "checkpoints" / "step-00000006.pt").unlink()
    pretrain(recipe, data, tmp_path / "parts", device)
    whole, parts = (
        load_file(tmp_path / run / "model" / "model.safetensors") for run in ("whole", "parts")
    )
    assert device == "cuda" or all(torch.equal(whole[name], parts[name]) for name in whole)
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole")[4:], abs=1e-6)
    pretrain(recipe, data, tmp_path / "cpu", "cpu")
    assert losses(tmp_path / "whole") == pytest.approx(losses(tmp_path / "cpu"), abs=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_process_of_torchrun_on_a_gpu(strategy, data, tmp_path):
    """By nccl, with the layout of several."""
    recipe = write_recipe(tmp_path / "recipe.toml", optimizer="adamw", strategy=strategy)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1"]
    command += ["-m", "hear_mwmae.cli", "pretrain", recipe, data, tmp_path / "run"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pretrain(tiny_recipe(tmp_path, optimizer="adamw"), data, tmp_path / "cpu", "cpu")
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "cpu"), abs=1e-4)
