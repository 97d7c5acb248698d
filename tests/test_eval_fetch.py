"""eval fetch: a record and its archives on a local server, cut off, damaged, interrupted."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import soundfile
from click.testing import CliRunner
from file_server import FileServer
from hear_tasks import make_task

from eval import fetch as fetching
from eval.__main__ import main
from eval.check import problems_of

FOLDER = "beijing_opera-v1.0-hear2021-full"
KEY = f"hear2021-{FOLDER}-48000.tar.gz"


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> bytes:
    """As HEAR has it: tasks/FOLDER with 48 kHz audio; 36 clips."""
    root = tmp_path_factory.mktemp("archive")
    task = make_task(root / "tasks" / FOLDER, "multiclass", 0.5)
    for file in task.glob("16000/*/*.wav"):
        target = task / "48000" / file.parent.name / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(target, soundfile.read(file)[0].repeat(3), 48000)
    shutil.rmtree(task / "16000")
    return Path(shutil.make_archive(str(root / "archive"), "gztar", root, "tasks")).read_bytes()


@pytest.fixture
def server(archive, tmp_path):
    root = tmp_path / "server"
    (root / "records").mkdir(parents=True)
    (root / KEY).write_bytes(archive)
    with FileServer(root) as running:
        md5 = hashlib.md5(archive).hexdigest()
        entry = {
            "key": KEY,
            "size": len(archive),
            "checksum": f"md5:{md5}",
            "links": {"self": f"{running.url}/{KEY}"},
        }
        (root / "records" / "1").write_text(json.dumps({"files": [entry]}))
        yield running


def fetch(server: FileServer, tasks: Path, *options: str) -> tuple[int, str]:
    command = ["fetch", str(tasks), "--task", FOLDER, "--record", f"{server.url}/records/1"]
    result = CliRunner().invoke(main, [*command, *options])
    return result.exit_code, result.output


def test_fetch(server, tmp_path):
    tasks = tmp_path / "tasks"
    assert fetch(server, tasks)[0] == 0
    assert problems_of(tasks / FOLDER) == []
    there = {path.name for path in (tasks / FOLDER).iterdir()}
    folds = {f"fold0{number}.json" for number in range(3)}
    assert there == folds | {"16000", "labelvocabulary.csv", "task_metadata.json"}
    info = soundfile.info(tasks / FOLDER / "16000" / "fold00" / "fold00-0.wav")
    assert (info.samplerate, info.frames, info.subtype) == (16000, 8000, "PCM_16")
    assert not list((tasks / ".fetch").iterdir())
    asked = len(server.asked)
    assert "1 tasks were already fetched" in fetch(server, tasks)[1]
    assert len(server.asked) == asked  # for nothing, not even the record


def test_a_download_that_is_cut_off_goes_on(server, tmp_path):
    server.cuts[f"/{KEY}"] = 2  # these answers end in their middle
    for _ in range(2):
        code, output = fetch(server, tmp_path / "tasks")
        assert code == 1 and "the same command resumes the download" in output
    code, output = fetch(server, tmp_path / "tasks")
    assert code == 0, output
    ranges = [wanted for path, wanted in server.asked if path == f"/{KEY}"]
    assert ranges[0] == "" and len(set(ranges)) == len(ranges) == 3
    assert problems_of(tmp_path / "tasks" / FOLDER) == []


def test_what_came_in_damaged_is_not_used(server, tmp_path):
    path = server.folder / KEY
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)
    code, output = fetch(server, tmp_path / "tasks")
    assert code == 1 and "arrived damaged" in output
    assert not list((tmp_path / "tasks" / ".fetch").glob("hear*"))


def test_interrupted_while_unpacking(server, tmp_path, monkeypatch):
    """The same command unpacks again, without another download."""
    done, read = [], fetching.read_audio

    def interrupted(*arguments: object, **options: object) -> object:
        done.append(arguments)
        if len(done) == 20:
            raise KeyboardInterrupt
        return read(*arguments, **options)

    monkeypatch.setattr(fetching, "read_audio", interrupted)
    assert fetch(server, tmp_path / "tasks")[0] == 1  # click's "Aborted!"
    assert not (tmp_path / "tasks" / FOLDER).exists()
    assert fetch(server, tmp_path / "tasks")[0] == 0
    assert len(done) == 20 + 36 and problems_of(tmp_path / "tasks" / FOLDER) == []
    assert sum(path == f"/{KEY}" for path, _ in server.asked) == 1


def test_a_task_that_is_not_complete(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "SAMPLE_RATE", 8000)
    code, output = fetch(server, tmp_path / "tasks")
    assert code == 1 and "is not complete: " in output and "files missing" in output
    assert not (tmp_path / "tasks" / FOLDER).exists()
    code, output = fetch(server, tmp_path / "tasks", "--task", "esc-51")
    assert code == 1 and "no task esc-51; there are beijing_opera" in output


def test_a_task_that_fails_stops_no_other(server, tmp_path):
    """The record has one of these tasks only."""
    code, output = fetch(server, tmp_path / "tasks", "--task", "fsd50k-v1.0-full", "--task", FOLDER)
    assert code == 1 and "fsd50k-v1.0-full: not fetched: the record has 0 files" in output
    assert problems_of(tmp_path / "tasks" / FOLDER) == []
