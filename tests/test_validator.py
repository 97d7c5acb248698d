"""The real hear-validator, which compares with the real tensorflow, on the embedded model and on a
model file.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hear_mwmae.weights import DEFAULT_MODEL, WEIGHTS_DIR, WEIGHTS_NAME

pytest.importorskip("hearvalidator", reason="needs the eval tools: make test")


@pytest.mark.parametrize("how", ["embedded", "file"])
def test_hear_validator_passes_with_its_one_warning(how, tmp_path):
    command = [Path(sys.executable).with_name("hear-validator"), "hear_mwmae"]
    if how == "file":
        shutil.copy(WEIGHTS_DIR / DEFAULT_MODEL / WEIGHTS_NAME, tmp_path / "model.safetensors")
        command += ["--model", tmp_path / "model.safetensors"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "Looks good!" in done.stdout, done.stdout + done.stderr
    warnings = [line for line in done.stderr.splitlines() if "Warning" in line]
    assert (
        len(warnings) == 1 and "IMPORTANT: A common bug" in warnings[0]
    )  # it prints this one always
