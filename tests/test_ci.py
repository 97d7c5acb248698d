"""What runs the checks elsewhere, GitHub's workflows and pre-commit, agrees with the Makefile and
with setup.cfg.
"""

from __future__ import annotations

import re
from configparser import ConfigParser
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml", reason="needs the dev extra")

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def load(path: Path) -> dict:
    return yaml.load(path.read_text(), yaml.BaseLoader)  # strings as they stand: "on" is no truth value, 3.10 no number


@pytest.fixture(scope="module")
def setup() -> ConfigParser:
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


@pytest.fixture(scope="module")
def makefile() -> dict[str, list[str]]:
    """Target -> its commands."""
    rules = re.findall(r"^([a-z]+):[^=\n]*\n((?:\t.*\n)*)", (ROOT / "Makefile").read_text(), re.M)
    return {target: [line.strip() for line in commands.splitlines()] for target, commands in rules}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_targets_of_the_makefile(path, makefile):
    steps = [step for job in load(path)["jobs"].values() for step in job["steps"]]
    commands = [step["run"] for step in steps if "run" in step]
    assert commands and {command.removeprefix("make ") for command in commands} <= set(makefile)


def test_the_matrix_is_what_the_package_supports(setup):
    matrix = load(ROOT / ".github" / "workflows" / "tests.yml")["jobs"]["versions"]["strategy"]["matrix"]
    assert matrix["python"] == re.findall(r"Python :: (3\.\d+)", setup["metadata"]["classifiers"])
    (oldest,) = re.findall(r"^torch>=(\S+)$", setup["options"]["install_requires"], re.M)
    assert matrix["torch"] == [f"torch=={oldest}.*", "torch"]


def test_a_release_is_published_by_its_identity_alone():
    jobs = load(ROOT / ".github" / "workflows" / "release.yml")["jobs"]
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert "secrets" not in (ROOT / ".github" / "workflows" / "release.yml").read_text()


def test_pre_commit_has_the_checks_of_make_lint(makefile):
    hooks = [hook for repo in load(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert [hook["entry"].replace(".venv/bin", "$(BIN)") for hook in hooks] == makefile["lint"]
