"""The script for a GPU, with the smallest sizes on a CPU."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from tiny_run import write_recipe

from hear_mwmae import load_model

SCRIPT = Path(__file__).parents[1] / "research" / "gpu.sh"


def test_all_parts_run(data, tmp_path):
    recipe = write_recipe(tmp_path / "recipe.toml", steps=3, checkpoint_every=1)
    out = tmp_path / "out"
    settings = {
        "DEVICE": "cpu",
        "OUT": out,
        "RECIPE": recipe,
        "PACK": data,
        "PYTHON": sys.executable,
        "LIMIT": 900,
    }
    environment = os.environ | {name: str(value) for name, value in settings.items()}
    done = subprocess.run(
        [SCRIPT, "fast", "better"], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.stdout.count("exit code 0") == 5, done.stdout + done.stderr
    assert "s of audio / s" in (out / "fast-embed.txt").read_text()
    assert "step 3 -> " in done.stdout
    pieces = sorted((out / "weights").glob("model.safetensors.*"))
    whole = out / "weights" / "model.safetensors"
    whole.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    assert load_model(str(out / "weights")).embed(torch.zeros(16000)).shape[0] == 1
