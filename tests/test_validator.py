"""The real hear-validator, which compares with the real tensorflow, on a model file; `make
validate` runs it on the embedded model.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hear_mwmae.weights import DEFAULT_MODEL, WEIGHTS_DIR, WEIGHTS_NAME

pytest.importorskip("hearvalidator", reason="needs the eval tools: make test")


def test_hear_validator_passes_with_its_one_warning(tmp_path):
    model = shutil.copy(WEIGHTS_DIR / DEFAULT_MODEL / WEIGHTS_NAME, tmp_path / "model.safetensors")
    command = [Path(sys.executable).with_name("hear-validator"), "hear_mwmae", "--model", model]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "Looks good!" in done.stdout, done.stdout + done.stderr
    (warning,) = (line for line in done.stderr.splitlines() if "Warning" in line)
    assert "IMPORTANT: A common bug" in warning  # it prints this one always
