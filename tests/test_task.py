"""`hear-mwmae task`: HEAR tasks of one's own audio, which the probe and the kit's check read."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result
from hear_tasks import tone

from eval.check import problems_of
from hear_mwmae.cli import main
from hear_mwmae.tasks import read_task


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> Path:
    """A folder for each of two labels, with twelve stereo files of 44.1 kHz."""
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    for label, high in (("high", True), ("very low", False)):
        (folder / label / "deeper").mkdir(parents=True)
        for number in range(12):
            audio = 4 * tone(rng, high, 0.25 + (44100 / 16000 - 1) / 4)  # louder than 1
            path = folder / label / ("deeper" if number % 2 else "") / f"{number}.wav"
            soundfile.write(path, np.stack([audio, audio], 1), 44100, subtype="FLOAT")
    for hidden in (".hidden", "__MACOSX"):
        (folder / hidden).mkdir()
        soundfile.write(folder / hidden / "1.wav", audio, 16000)
    (folder / "notes.txt").write_text("no audio")
    return folder


def write_csv(file: Path, columns: list[str], rows: list[tuple]) -> Path:
    with open(file, "w", newline="") as stream:
        csv.writer(stream).writerows([columns, *rows])
    return file


def test_of_a_folder_for_each_label(sounds, tmp_path):
    """The folds are drawn, each label evenly; the audio is 16 kHz mono, and what is loud stays."""
    result = run("task", sounds, "-o", tmp_path / "mine", "--folds", 4)
    assert result.exit_code == 0, result.output
    splits = ", ".join(f"fold0{number} 6" for number in range(4))
    assert f"24 clips, 2 labels ({splits}) -> " in result.output
    task = read_task(tmp_path / "mine")
    for split in task.splits:
        assert sorted(label for (label,) in split.values()) == 3 * ["high"] + 3 * ["very low"]
    path = next(iter(task.splits[0]))
    audio, rate = soundfile.read(path)
    assert rate == 16000 and audio.ndim == 1 and audio.max() > 1.1
    assert task.metadata["sample_duration"] == pytest.approx(0.25, abs=0.01)
    assert problems_of(tmp_path / "mine") == []
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    probed = run("probe", tmp_path, "--model", "log-mel")
    table = re.sub(" +", " ", probed.output)
    assert probed.exit_code == 0 and "| mine | accuracy | 100.0 [100.0, 100.0] |" in table
    again = run("task", sounds, "-o", tmp_path / "mine")
    assert again.exit_code == 1 and "mine exists" in again.output


@pytest.mark.parametrize(("column", "values"), [("fold", "1 2 10"), ("split", "train valid test")])
def test_of_a_csv(sounds, tmp_path, column, values):
    names = values.split()
    rows = []
    for label in ("high", "very low"):
        for number in range(12):
            path = sounds / label / ("deeper" if number % 2 else "") / f"{number}.wav"
            rows.append((path, label, names[number % 3]))
    file = write_csv(tmp_path / "clips.csv", ["path", "label", column], rows)
    result = run("task", file, "-o", tmp_path / "mine")
    assert result.exit_code == 0, result.output
    task = read_task(tmp_path / "mine")
    if column == "split":
        assert task.split_names == names and task.tested == [2]
    else:
        assert task.split_names == ["fold00", "fold01", "fold02"] and task.tested == [0, 1, 2]
    for number, split in enumerate(task.splits):
        stems = sorted(int(path.stem.split("-")[1]) for path in split)
        assert stems == sorted(2 * list(range(number, 12, 3)))
    assert problems_of(tmp_path / "mine") == []


def test_clips_of_any_length(sounds, tmp_path):
    soundfile.write(tmp_path / "short.wav", np.zeros(100), 16000)
    rows = [(sounds / label / "0.wav", label) for label in ("high", "very low") for _ in range(3)]
    file = write_csv(tmp_path / "clips.csv", ["label", "path"], [(b, a) for a, b in rows])
    with open(file, "a") as stream:
        stream.write("high,short.wav\n")  # relative to the CSV
    assert run("task", file, "-o", tmp_path / "mine", "--folds", 3).exit_code == 0
    assert json.loads((tmp_path / "mine/task_metadata.json").read_text())["sample_duration"] is None
    assert problems_of(tmp_path / "mine") == []


@pytest.mark.parametrize(
    ("columns", "rows", "message"),
    [
        (["path"], [("a.wav",)], "must have rows with the columns path and label"),
        (["path", "label", "fold", "split"], [("a", "b", "1", "train")], "one of them is enough"),
        (["path", "label"], [("a.wav", "")], "clips.csv, line 2: a value is missing"),
        (["path", "label"], [("a.wav", "x"), ("b.wav", "y")], "2 clips are too few for 5 folds"),
        (["path", "label", "split"], [("a", "x", "train"), ("b", "y", "dev")], "must hold train"),
    ],
)
def test_a_csv_that_cannot_be_a_task(tmp_path, columns, rows, message):
    file = write_csv(tmp_path / "clips.csv", columns, rows)
    result = run("task", file, "-o", tmp_path / "mine")
    assert result.exit_code == 1 and message in result.output and "Traceback" not in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["clips.csv"]


@pytest.mark.parametrize(("label", "other"), [("NA", "a"), ("060", "72")])
def test_labels_that_the_kit_would_misread(sounds, tmp_path, label, other):
    """As missing values, or as another number beside numbers."""
    rows = [(sounds / "high" / "0.wav", name) for name in (label, other) for _ in range(5)]
    file = write_csv(tmp_path / "clips.csv", ["path", "label"], rows)
    result = run("task", file, "-o", tmp_path / "mine")
    assert result.exit_code == 1 and f"would misread the label '{label}'" in result.output
    assert not (tmp_path / "mine").exists()


def test_audio_that_cannot_be_read(tmp_path):
    for label in "ab":
        (tmp_path / "sounds" / label).mkdir(parents=True)
        for number in range(5):
            (tmp_path / "sounds" / label / f"{number}.wav").write_bytes(b"no audio")
    result = run("task", tmp_path / "sounds", "-o", tmp_path / "mine")
    assert result.exit_code == 1 and "Traceback" not in result.output and ".wav" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["sounds"]
