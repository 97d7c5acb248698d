"""Benchmarks at their smallest sizes, and the commands of the script for a GPU."""

from __future__ import annotations

import importlib
import os
import shlex
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_run import write_recipe

from research.benchmarks import attention, embed, pretrain

SCRIPT = Path(__file__).parents[1] / "research" / "gpu.sh"


@pytest.mark.parametrize("benchmark", [attention, embed, pretrain])
def test_benchmark(benchmark, small_config, tmp_path, monkeypatch):
    monkeypatch.setattr(embed, "preset", lambda name: small_config)
    monkeypatch.setattr(pretrain, "preset", lambda name: small_config)
    options, expected = {
        attention: (["--recipe", write_recipe(tmp_path / "recipe.toml")], "of plain"),
        embed: (["--size", "base"], "base bfloat16: "),
        pretrain: ([], "mwmae bfloat16: "),
    }[benchmark]
    command = [*map(str, options), "--rounds", "1", "--batch", "1"]
    done = CliRunner().invoke(benchmark.main, command, catch_exceptions=False)
    assert done.exit_code == 0 and expected in done.output


def test_commands_of_the_script_for_a_gpu(tmp_path):
    """With echo in the place of Python."""
    settings = {"PYTHON": "echo", "OUT": str(tmp_path / "out"), "PACK": str(tmp_path)}
    done = subprocess.run([SCRIPT], env=os.environ | settings, capture_output=True, text=True)
    assert done.stdout.count("exit code 0") == 6
    modules = set()
    for report in (tmp_path / "out").glob("*.txt"):
        _, module, *words = shlex.split(report.read_text())
        modules.add(module)
        if module != "pytest":
            command = importlib.import_module(module).main
            if module == "hear_mwmae.cli":
                command = command.commands[words.pop(0)]
            command.make_context(module, words)  # an unknown option is an error
    assert len(modules) == 5
