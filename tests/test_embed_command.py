"""`hear-mwmae embed` at scale: what any interruption leaves, inputs of every kind, outputs, failures, processes, memory."""

from __future__ import annotations

import csv
import os
import resource
import subprocess
import sys
from pathlib import Path

import interrupted
import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
import webdataset
from click.testing import CliRunner, Result
from file_server import FileServer
from reference import AUDIO

import hear_mwmae
from hear_mwmae.audio import read_audio
from hear_mwmae.batch import parts
from hear_mwmae.checkpoint import save_model
from hear_mwmae.cli import main
from hear_mwmae.commands import Command
from hear_mwmae.config import DecoderConfig, EncoderConfig, ModelConfig
from hear_mwmae.mae import MaskedAutoencoder

TESTS = Path(__file__).parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS.parent)}
CLIPS = 240


@pytest.fixture(scope="module")
def model(tmp_path_factory, small_config) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, small_config, MaskedAutoencoder(small_config).state_dict())
    return str(folder)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """A folder of short clips of noise, of many lengths; one in thirty is damaged."""
    folder, random = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    for number in range(CLIPS):
        path = folder / f"{number:03d}.wav"
        if number % 30 == 7:
            path.write_bytes(b"no audio")
        else:
            soundfile.write(path, random.uniform(-0.5, 0.5, random.integers(1000, 8000)), 16000, subtype="FLOAT")
    return folder


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["embed", "--quiet", *map(str, args)])


def read(output: Path) -> dict[str, np.ndarray]:
    """The columns of a table of any kind."""
    if output.suffix == ".npz":
        with np.load(output) as file:
            return dict(file)
    if output.suffix in (".npy", ".csv"):
        with open(output.with_suffix(".csv"), newline="") as stream:
            header, *lines = csv.reader(stream)
        columns = {"path": np.array([line[0] for line in lines])}
        if "timestamp" in header:
            columns["timestamp"] = np.array([line[1] for line in lines], np.float32)
        first = len(columns)
        numbers = np.load(output) if output.suffix == ".npy" else np.array([line[first:] for line in lines], np.float32)
        return columns | {"embedding": numbers}
    table = pyarrow.dataset.dataset(output).to_table() if output.is_dir() else pq.read_table(output)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    return columns | {"embedding": np.stack(columns["embedding"])}


def equal(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


def content(output: Path) -> dict[str, bytes]:
    """The bytes of a table, or of all files of a dataset."""
    files = sorted(output.glob("*.parquet")) if output.is_dir() else [output]
    return {file.name if output.is_dir() else file.suffix: file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def whole(model, clips, tmp_path_factory) -> Path:
    """The table of one run without interruption, in small groups."""
    out = tmp_path_factory.mktemp("whole") / "out.npz"
    with pytest.MonkeyPatch.context() as patch:
        interrupted.small(patch.setattr)
        assert run(clips, "-o", out, "--model", model).exit_code == 1
    assert len(read(out)["path"]) == CLIPS * 29 // 30
    return out


@pytest.mark.parametrize("name", ["out.npz", "dataset"])
def test_killed_twenty_times(model, clips, whole, tmp_path, name):
    """The same table to the byte; embedded again is only what a kill has found in the encoder, a group of eight at most."""
    command = [sys.executable, str(TESTS / "interrupted.py"), "20", "1", "embed", str(clips), "-o", str(tmp_path / name)]
    done = subprocess.run([*command, "--model", model, "--quiet"], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert equal(read(tmp_path / name), read(whole))
    if name == "out.npz":
        assert content(tmp_path / name) == content(whole)
        assert not (tmp_path / "out.npz.parts").exists()
    embedded, expected = done.stdout.count("clip\n"), CLIPS * 29 // 30
    assert expected <= embedded <= expected + 20 * 8
    with open(tmp_path / f"{name}.failures.csv", newline="") as stream:
        failures = list(csv.DictReader(stream))
    assert [row["path"] for row in failures] == [str(clips / f"{number:03d}.wav") for number in range(7, CLIPS, 30)]
    assert all("not an audio file" in row["reason"] for row in failures)


def test_ctrl_c_says_how_to_go_on(model, clips, whole, tmp_path, monkeypatch):
    interrupted.small(monkeypatch.setattr)
    with monkeypatch.context() as patch:
        interrupted.Events(40, ctrl_c=True).watch_all(patch.setattr)
        result = run(clips, "-o", tmp_path / "out.npz", "--model", model)
    assert result.exit_code == 130 and not (tmp_path / "out.npz").exists()
    assert "interrupted: progress is kept" in result.stderr and len(result.stderr.splitlines()) == 1
    assert any((tmp_path / "out.npz.parts").glob("*.jsonl"))
    assert run(clips, "-o", tmp_path / "out.npz", "--model", model).exit_code == 1
    assert content(tmp_path / "out.npz") == content(whole)


@pytest.mark.parametrize("limit", [4000, 100_000])
def test_a_full_disk_is_one_line_and_loses_nothing(model, clips, whole, tmp_path, monkeypatch, limit):
    """Full in the first part, and where the table is put together."""
    interrupted.small(monkeypatch.setattr)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        result = run(clips, "-o", tmp_path / "out.npz", "--model", model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert result.exit_code == 1 and len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("Error: cannot write ") and "the same command resumes the run" in result.stderr
    assert not (tmp_path / "out.npz").exists() and not list(tmp_path.glob(".out*"))
    assert run(clips, "-o", tmp_path / "out.npz", "--model", model).exit_code == 1
    assert content(tmp_path / "out.npz") == content(whole)


def test_two_processes_go_on_with_what_one_has_begun(model, clips, whole, tmp_path, monkeypatch):
    """And write the same dataset, whose parts are dealt out."""
    monkeypatch.setattr(interrupted.plan, "MOST_FILES", 64)
    out = tmp_path / "dataset"
    with monkeypatch.context() as patch:
        interrupted.small(patch.setattr)
        patch.setattr(interrupted.plan, "FEWEST_FILES", 64)
        patch.setattr(interrupted.plan, "MOST_FILES", 64)
        interrupted.Events(20, ctrl_c=True).watch_all(patch.setattr)
        assert run(clips, "-o", out, "--model", model).exit_code == 130
    begun = {file.name for file in (out / ".embed").glob("*.jsonl")}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "hear_mwmae.cli", "embed"]
    command += [str(clips), "-o", str(out), "--model", model]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 1 and "232 of 240 clips" in done.stdout, done.stderr
    assert done.stderr.count("not embedded: ") == 8
    assert begun == {"part-00000.jsonl"}
    assert sorted(file.name for file in out.iterdir()) == [".embed", *(f"part-{number:05d}.parquet" for number in range(4))]
    table, expected = read(out), read(whole)
    assert table["path"].tolist() == expected["path"].tolist()
    assert np.abs(table["embedding"] - expected["embedding"]).max() < 1e-5


def test_a_process_that_dies_leaves_no_other_waiting(model, clips, tmp_path):
    """The second finds other inputs than the first, and refuses."""
    code = "import os, sys; sys.argv[-1] += os.environ['RANK']; from hear_mwmae.cli import main; main(sys.argv[1:])"
    (tmp_path / "run.py").write_text(code)
    for rank in range(2):
        (tmp_path / f"inputs{rank}").symlink_to(clips)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(tmp_path / "run.py"), "embed"]
    command += ["--model", model, "-o", str(tmp_path / "out"), str(tmp_path / "inputs")]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert done.returncode == 1 and "holds the parts of another run (inputs" in done.stderr


@pytest.mark.parametrize("timestamps", [False, True])
@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.csv", "a.parquet", "folder"])
def test_outputs_are_the_same_table(model, tmp_path, name, timestamps, monkeypatch):
    """Also where blocks of rows end inside a clip, or hold several."""
    monkeypatch.setattr(parts, "BLOCK_ROWS", 37)
    paths = [path for path in sorted(AUDIO.iterdir()) for _ in range(2)]  # of one length in a row
    result = run(*paths, "-o", tmp_path / name, "--model", model, *["--timestamps"] * timestamps)
    assert result.exit_code == 0, result.output
    table, loaded, row = read(tmp_path / name), hear_mwmae.load_model(model), 0
    for path in paths:
        audio = read_audio(path, 16000)[None]
        if timestamps:
            steps, times = loaded.timestamp_embeddings(audio)
            expected = steps[0].numpy()
            assert table["timestamp"][row : row + len(expected)].tolist() == times[0].tolist()
        else:
            expected = loaded.scene_embeddings(audio).numpy()
        assert set(table["path"][row : row + len(expected)]) == {str(path)}
        assert np.abs(table["embedding"][row : row + len(expected)] - expected).max() < 1e-5
        row += len(expected)
    assert row == len(table["embedding"]) == len(table["path"]) and table["embedding"].dtype == np.float32
    assert {file.name for file in tmp_path.iterdir()} == {name, *["a.csv"] * (name == "a.npy")}


def test_what_is_in_the_way(model, clips, tmp_path):
    """Parts of another run, other files, a manifest that would be overwritten: one line, and nothing is touched."""
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "file").touch()
    assert "is not empty (it holds file)" in run(clips, "-o", tmp_path / "foreign", "--model", model).stderr
    (tmp_path / "list.csv").write_text(f"path\n{AUDIO / 'crow.wav'}\n")
    assert "it is one of the inputs" in run(tmp_path / "list.csv", "-o", tmp_path / "list.npy", "--model", model).stderr
    (tmp_path / "names.csv").write_text("a table of somebody's\n")
    assert "would share their .csv" in run(clips, "-o", tmp_path / "names.npy", "--model", model).stderr
    (tmp_path / "other.npy").touch()
    assert "would share their .csv" in run(clips, "-o", tmp_path / "other.csv", "--model", model).stderr
    dataset = tmp_path / "dataset"
    assert run(AUDIO, "-o", dataset, "--model", model).exit_code == 0
    before = content(dataset)
    for changes, differs in (
        (["--timestamps"], "timestamps none, not centred"),
        (["--dtype", "bfloat16"], "dtype float32, not bfloat16"),
        (["--pooling", "max"], "pooling mean, not max"),
        ([AUDIO / "crow.wav"], "inputs 5, "),
    ):
        result = run(AUDIO, *changes, "-o", dataset, "--model", model)
        assert result.exit_code == 1 and f"another run ({differs}" in result.stderr and result.stderr.count("\n") == 1
    assert "another model" in run(AUDIO, "-o", dataset).stderr
    assert run(AUDIO, "-o", dataset, "--model", model).exit_code == 0  # done already
    assert content(dataset) == before
    next(dataset.glob("*.parquet")).unlink()
    assert run(AUDIO, "-o", dataset, "--model", model).exit_code == 0
    assert content(dataset) == before


def tar(path: Path) -> list[str]:
    with webdataset.TarWriter(str(path), encoder=False) as writer:
        for key, name in (("a.1", "crow.wav"), ("b", "piano.flac"), ("c", None), ("d", "till.opus")):
            content = (AUDIO / name).read_bytes() if name else b"broken"
            writer.write({"__key__": key, name.split(".")[1] if name else "mp3": content, "json": b'{"path": "elsewhere"}'})
    return ["a.1.wav", "b.flac", "c.mp3", "d.opus"]


def parquet(path: Path) -> list[str]:
    contents = [(AUDIO / name).read_bytes() for name in ("crow.wav", "piano.flac", "till.opus")]
    contents.insert(2, b"broken")
    audio = [{"bytes": content, "path": f"{number}.x" if number else None} for number, content in enumerate(contents)]
    pq.write_table(pyarrow.table({"audio": audio}), path)
    return ["row 0", "1.x", "2.x", "3.x"]


@pytest.mark.parametrize("shard", [tar, parquet])
def test_shards_here_and_on_a_server(model, tmp_path, shard, monkeypatch):
    """No temporary file per clip; interrupted, a shard is gone on with in the middle."""
    path = tmp_path / f"shard.{shard.__name__}"
    names = shard(path)
    monkeypatch.setattr("tempfile.NamedTemporaryFile", lambda **_: pytest.fail("a temporary file"))
    monkeypatch.setattr(interrupted.engine, "GROUP_CHUNKS", 1)
    loaded = hear_mwmae.load_model(model)
    clips = [read_audio(AUDIO / name, 16000) for name in ("crow.wav", "piano.flac", "till.opus")]
    expected = loaded.scene_embeddings_of_clips(clips).numpy()
    with FileServer(tmp_path) as server:
        for source in (str(path), f"{server.url}/{path.name}"):
            out = tmp_path / f"{len(source)}.npz"
            with monkeypatch.context() as patch:
                interrupted.Events(12, ctrl_c=True).watch_all(patch.setattr)
                assert run(source, "-o", out, "--model", model).exit_code == 130
            assert len((tmp_path / f"{out.name}.parts" / "part-00000.jsonl").read_text().splitlines()) in (1, 2)
            result = run(source, "-o", out, "--model", model)
            assert result.exit_code == 1 and result.stderr.count("not embedded: ") == 1
            assert f"{source}/{names[2]}: not an audio file" in result.stderr and "/proc/" not in result.stderr
            table = read(out)
            assert table["path"].tolist() == [f"{source}/{names[place]}" for place in (0, 1, 3)]
            assert np.abs(table["embedding"] - expected).max() < 1e-5


def test_manifests_folders_and_files_together(model, tmp_path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "list.csv").write_text(f"label,path\ncrow,../crow.wav\nmissing,gone.wav\nglass,{AUDIO / 'glass.mp3'}\n")
    (tmp_path / "crow.wav").write_bytes((AUDIO / "crow.wav").read_bytes())
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "deep" / "tabla.ogg").write_bytes((AUDIO / "tabla.ogg").read_bytes())
    (tmp_path / "folder" / "speech.tak").touch()
    (tmp_path / "folder" / "broken.wav").symlink_to("nowhere")
    (tmp_path / "none.csv").write_text("file\n")
    sources = [tmp_path / name for name in ("lists/list.csv", "mistyped", "folder", "none.csv", "no-shard.tar")]
    result = run(*sources, AUDIO / "piano.flac", "-o", tmp_path / "out.npz", "--model", model)
    assert result.exit_code == 1
    assert read(tmp_path / "out.npz")["path"].tolist() == [
        str(tmp_path / "lists" / ".." / "crow.wav"),
        str(AUDIO / "glass.mp3"),
        str(tmp_path / "folder" / "deep" / "tabla.ogg"),
        str(AUDIO / "piano.flac"),
    ]
    with open(tmp_path / "out.npz.failures.csv", newline="") as stream:
        failures = {Path(row["path"]).name: row["reason"] for row in csv.DictReader(stream)}
    for name, reason in {
        "gone.wav": "no such file",
        "mistyped": "no such file or folder",
        "broken.wav": "no such file",
        "none.csv": "has no column path",
        "no-shard.tar": "no such shard",
    }.items():
        assert reason in failures.pop(name)
        assert sum(name in line for line in result.stderr.splitlines()) == 1
    assert not failures and "1 .tak" in result.stderr and "4 of 9 clips" in result.stdout
    packed = CliRunner().invoke(main, ["pack", "--jobs", "1", str(tmp_path / "folder"), str(tmp_path / "pack")])
    assert packed.exit_code == 0 and "not read: 1 .tak" in packed.stderr  # the same reader


def test_nothing_could_be_embedded(model, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    result = run(tmp_path / "bad.wav", "-o", tmp_path / "out.npz", "--model", model)
    assert result.exit_code == 1 and "Error: nothing to write" in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"bad.wav", "out.npz.failures.csv"}


def test_names_that_are_no_characters(model, tmp_path):
    name = os.fsencode(tmp_path) + b'/\xff,"1".wav'
    Path(os.fsdecode(name)).write_bytes((AUDIO / "crow.wav").read_bytes())
    bad = os.fsdecode(name.replace(b"\xff", b"\xfe"))
    Path(bad).write_bytes(b"no audio")
    assert run(bad, AUDIO / "crow.wav", "-o", tmp_path / "bad.npz", "--model", model).exit_code == 1
    with open(tmp_path / "bad.npz.failures.csv", newline="", encoding="utf-8") as stream:
        assert [row["path"] for row in csv.DictReader(stream)] == [f'{tmp_path}/\\xfe,"1".wav']
    for out in ("out.npz", "out.csv", "out.parquet"):
        assert run(os.fsdecode(name), "-o", tmp_path / out, "--model", model).exit_code == 0
        assert read(tmp_path / out)["path"].tolist() == [f'{tmp_path}/\\xff,"1".wav']


def test_a_long_file_is_never_in_memory(tmp_path):
    """Half an hour of it, of which the rows alone are 173 MB, costs less than these above what three minutes do."""
    config = ModelConfig(EncoderConfig(192, 1, 3), DecoderConfig(32, 1, 1, window_sizes=(0,)))
    save_model(tmp_path / "model", config, MaskedAutoencoder(config).state_dict())
    random, memory = np.random.default_rng(0), {}
    for minutes in (3, 30):
        with soundfile.SoundFile(tmp_path / f"{minutes}.wav", "w", 16000, 1) as file:
            for _ in range(minutes):
                file.write(random.uniform(-0.5, 0.5, 960000))
        code = (
            "import sys; from hear_mwmae.cli import main; main(sys.argv[1:], standalone_mode=False);"
            "print(*[line for line in open('/proc/self/status') if line.startswith('VmHWM')])"
        )
        command = [sys.executable, "-c", code, "embed", "--timestamps", "--quiet", "--model", str(tmp_path / "model")]
        command += [str(tmp_path / f"{minutes}.wav"), "-o", str(tmp_path / f"{minutes}.npz")]
        done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
        assert done.returncode == 0, done.stderr
        memory[minutes] = int(done.stdout.split()[-2]) / 1024
    assert memory[30] - memory[3] < 173, memory
    embeddings = np.load(tmp_path / "30.npz")["embedding"]
    assert embeddings.shape == (45000, 960) and np.isfinite(embeddings).all()


def test_the_bar_counts_seconds_of_audio(model, tmp_path):
    with_bar = CliRunner().invoke(main, ["embed", str(AUDIO), "-o", str(tmp_path / "a.npz"), "--model", model])
    seconds = round(sum(soundfile.info(path).duration for path in AUDIO.iterdir()))
    assert f"{seconds}/{seconds} s" in with_bar.stderr
    assert run(AUDIO, "-o", tmp_path / "a.npz", "--model", model).stderr == ""


def test_help_waits_for_nothing():
    code = (
        "import sys; from hear_mwmae.cli import main; from click.testing import CliRunner;"
        "commands = ['-h'], ['--version'], ['embed', '-h'], ['pretrain', '-h'];"
        "print([CliRunner().invoke(main, command).exit_code for command in commands]);"
        "print([name for name in ('torch', 'numpy', 'soundfile', 'huggingface_hub') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert done.stdout.splitlines() == ["[0, 0, 0, 0]", "[]"]


def test_the_list_of_commands_is_not_cut_off():
    text = CliRunner().invoke(main, ["--help"], terminal_width=80).output
    assert "..." not in text.partition("Commands:")[2]
    assert all(f"\n  {name} " in text for name in main.commands)
    assert all(isinstance(command, Command) for command in main.commands.values())  # with -h, --debug and errors in one line


def test_embedding_files_imports_no_shards(model, tmp_path):
    code = (
        "import sys; from hear_mwmae.cli import main; main(sys.argv[1:], standalone_mode=False);"
        "print([name for name in ('fsspec', 'aiohttp', 'webdataset', 'pyarrow', 'braceexpand') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, "embed", str(AUDIO / "crow.wav"), "-o", str(tmp_path / "a.npz"), "--model", model]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_damaged_log_is_refused(model, clips, tmp_path, monkeypatch):
    """Rows that the log counts, and that are not there, are not made up."""
    interrupted.small(monkeypatch.setattr)
    with monkeypatch.context() as patch:
        interrupted.Events(30, ctrl_c=True).watch_all(patch.setattr)
        run(clips, "-o", tmp_path / "out.npz", "--model", model)
    rows = tmp_path / "out.npz.parts" / "part-00000.rows"
    os.truncate(rows, 8)
    result = run(clips, "-o", tmp_path / "out.npz", "--model", model)
    assert result.exit_code == 1 and f"{rows} is shorter than" in result.stderr
