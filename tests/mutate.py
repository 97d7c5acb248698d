"""Which parity test notices which mistake: puts each trap back into a copy of the package and runs
the parity tests on it.

    python tests/mutate.py [NAME...]

Prints a Markdown row per mutation; the table in docs/design.md is its output. Not collected by
pytest: it takes minutes.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

#: name -> (file, text, replacement)
MUTATIONS = {
    "bias tables dropped": (
        "attention.py",
        "table.to(like.dtype) for",
        "0 * table.to(like.dtype) for",
    ),
    "bias tables mirrored (j - i)": (
        "attention.py",
        "relative = token[:, None] - token[None, :]",
        "relative = token[None, :] - token[:, None]",
    ),
    "shifted windows: wrapped positions not masked": (
        "attention.py",
        "moved = token - w // 2 if shift else token",
        "moved = (token - w // 2) % length if shift else token",
    ),
    "bias tables do not learn": (
        "attention.py",
        "grad_scores.sum_to_size(bias.shape)",
        "torch.zeros_like(bias)",
    ),
    "all heads global": (
        "attention.py",
        "torch.where(window[:, None] == window[None, :], relative + first + w - 1, rows + 1)",
        "torch.full_like(relative, rows)",
    ),
    "erf GELU": ("linear.py", '"gelu", [], "tanh"', '"gelu", [], "none"'),
    "erf GELU, in training": ("linear.py", 'approximate="tanh"', 'approximate="none"'),
    "LayerNorm eps 1e-5": ("encoder.py", "LAYER_NORM_EPS = 1e-6", "LAYER_NORM_EPS = 1e-5"),
    "position tables regenerated": (
        "weights.py",
        "    dtype = next(",
        "    from .patches import sincos_2d\n"
        "    width = module.config.encoder.width\n"
        "    state = {**state, 'encoder.pos_embed': sincos_2d(width, (50, 5))[None]}\n"
        "    dtype = next(",
    ),
    "time in the first half of the position table": (
        "patches.py",
        "sincos_1d(width // 2, bands.flatten()), sincos_1d(width // 2, time.flatten())",
        "sincos_1d(width // 2, time.flatten()), sincos_1d(width // 2, bands.flatten())",
    ),
    "frequency-major tokens": (
        "patches.py",
        "grid.reshape(batch, (frames",
        "grid.transpose(1, 2).reshape(batch, (frames",
    ),
    "population deviation at inference": (
        "frontend.py",
        "unbiased: bool = True)",
        "unbiased: bool = False)",
    ),
    "Slaney mel scale": (
        "frontend.py",
        "return torch.minimum(rising, falling).clamp(min=0)",
        'return __import__("torchaudio").functional.melscale_fbanks('
        "win_length // 2 + 1, config.f_min, config.f_max, config.n_mels, config.sample_rate, None, "
        '"slaney")',
    ),
    "zero padding of the waveform": (
        "frontend.py",
        "waveform[:, reflect_index(waveform.shape[1], start, stop, waveform.device)]",
        "torch.nn.functional.pad(waveform, (length // 2, length // 2))"
        "[:, start + length // 2 : stop + length // 2]",
    ),
    "log offset 1e-6": (
        "config.py",
        "Field(gt=0, le=1)] = 1.1920929e-07",
        "Field(gt=0, le=1)] = 1e-06",
    ),
    "last chunk padded with zeros": (
        "embedder.py",
        "return spectrogram[:, index].unflatten(1, (chunks, size))",
        "padded = torch.nn.functional.pad(spectrogram, (0, 0, 0, chunks * size - frames))\n"
        "    return padded.unflatten(1, (chunks, size))",
    ),
    "padded time steps averaged": (
        "embedder.py",
        "steps[:, : piece.steps]",
        "steps",
    ),
    "unbiased variance in norm_pix_loss": ("mae.py", "correction=0", "correction=1"),
    "loss over all patches": ("mae.py", "(error * mask).sum() / mask.sum()", "error.mean()"),
    "decoder without positions": ("mae.py", "dim=1) + self.decoder_pos_embed", "dim=1)"),
    "no weight decay": (
        "training/optim.py",
        "BETAS, EPS, recipe.weight_decay,",
        "BETAS, EPS, 0.0,",
    ),
}


def run(name: str) -> str:
    """One row: the mutation and the parity tests that fail under it."""
    file, text, replacement = MUTATIONS[name]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("hear_mwmae", "tests", "weights", "pyproject.toml"):
            source = ROOT / part
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / part)
        target = copy / "hear_mwmae" / file
        source = target.read_text()
        if text not in source:
            raise SystemExit(f"{name}: {text!r} is no longer in {file}")
        target.write_text(source.replace(text, replacement))
        command = [sys.executable, "-m", "pytest", "tests/test_parity.py", "-q"]
        environment = {**os.environ, "PYTHONPATH": str(copy)}
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    failed = Counter(re.findall(r"^FAILED tests/test_parity.py::test_(\w+)", done.stdout, re.M))
    if done.returncode not in (0, 1):
        said = done.stdout[-2000:] + done.stderr[-2000:]
        raise SystemExit(f"{name}: pytest could not run\n{said}")
    tests = ", ".join(f"{test} ({count})" for test, count in failed.items())
    return f"| {name} | {tests or '**none**'} |"


if __name__ == "__main__":
    print("| mutation | parity tests that fail (cases) |\n|---|---|")
    for mutation in sys.argv[1:] or MUTATIONS:
        print(run(mutation), flush=True)
