"""eval/: real heareval on small tasks of each kind, made from generated sounds."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import forked
import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from filelock import FileLock
from hear_tasks import make_task
from tiny_run import tiny_recipe

from eval import kit, machine
from eval.__main__ import main
from eval.predict import PROCESS_BYTES, compute, fitting, memory_needed, missing_predictions
from eval.results import Prediction
from eval.scores import read_scores
from eval.tasks import find_tasks, problems_of
from hear_mwmae.checkpoint import save_model
from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.probing.tasks import TaskFolder


@pytest.fixture(scope="module")
def tasks_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    for kind, seconds in (("multiclass", 0.5), ("multilabel", 0.5), ("event", 2.0)):
        make_task(folder / f"{kind}-v1", kind, seconds)
    return folder


def run(*arguments: object, expect: int = 0) -> str:
    """In a process of its own: heareval brings tensorflow along, and changes what
    torch.load does.
    """
    done = forked.run(*arguments, main=forked.EVAL, environment={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == expect, done.stderr[-3000:]
    return done.stdout + (done.stderr if expect else "")


def unpadded(table: str) -> str:
    """A Markdown table without the spaces that align its columns."""
    return re.sub(" +", " ", table)


@pytest.fixture(scope="module")
def embedded(tasks_dir, tmp_path_factory) -> Path:
    """Results of the log-mel module, embeddings only."""
    results = tmp_path_factory.mktemp("results") / "log-mel"
    output = run("embed", tasks_dir, results, "--module", "eval.log_mel")
    assert "event-v1: 0.02 h of audio" in output and "3 tasks embedded" in output
    return results


def test_embeddings(tasks_dir, embedded):
    """One vector per clip or time step, and nothing else that takes space; what is there
    is kept.
    """
    for kind in ("multiclass", "multilabel", "event"):
        folder = embedded / f"{kind}-v1" / "embeddings"
        assert not [path for path in folder.iterdir() if path.is_dir()]
    dimensions = [json.loads(path.read_text()) for path in sorted(embedded.glob("*/embeddings/*dimensions.json"))]
    assert dimensions == [[12 * 41, 160]] * 3 + [[12, 160]] * 6
    about = embedded / "event-v1" / "embeddings" / "about.json"
    before = about.stat().st_mtime_ns
    assert "0 tasks embedded" in run("embed", tasks_dir, embedded, "--module", "eval.log_mel")
    assert about.stat().st_mtime_ns == before
    assert "was made with another module" in run("embed", tasks_dir, embedded, "--module", "hear_mwmae", expect=1)


def test_a_model_with_options(tasks_dir, tmp_path):
    options = json.dumps({"timestamps": "official"})
    run("embed", tasks_dir, tmp_path / "m", "--model-options", options, "--batch-size", "1", "--task", "event-v1")
    assert json.loads((tmp_path / "m/event-v1/embeddings/train.embedding-dimensions.json").read_text()) == [12 * 51, 960]


def test_processes_share_the_clips(tasks_dir, embedded, tmp_path):
    """The same files as one process leaves, and the same numbers to rounding."""
    arguments = [
        "embed",
        tasks_dir,
        tmp_path / "two",
        "--module",
        "eval.log_mel",
        "--task",
        "event-v1",
        "--task",
        "multiclass-v1",
    ]
    done = forked.run_two(*arguments, main=forked.EVAL)
    assert done.returncode == 0, done.stderr[-3000:]
    for task in ("event-v1", "multiclass-v1"):
        one, two = (results / task / "embeddings" for results in (embedded, tmp_path / "two"))
        assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in two.iterdir())
        for path in one.iterdir():
            if path.suffix == ".npy":
                assert np.allclose(np.fromfile(path, "f4"), np.fromfile(two / path.name, "f4"), atol=1e-5)
            elif path.name not in ("about.json",) and "filename-timestamps" not in path.name:  # those hold paths
                assert path.read_bytes() == (two / path.name).read_bytes(), path.name


def test_xares():
    """Its own check of an encoder."""
    checker = pytest.importorskip("xares.audio_encoder_checker")
    from eval.xares_encoder import MwMaeEncoder

    encoder = MwMaeEncoder()
    assert checker.check_audio_encoder(encoder)
    assert encoder(torch.rand(2, 50000)).shape == (2, 78, 960)  # of 3125 ms


def test_predictions_of_every_kind(embedded, tmp_path):
    """A tone's height is easy to tell; a task that fails stops no other, and nothing is computed
    twice.
    """
    results = shutil.copytree(embedded, tmp_path / "log-mel")
    (results / "broken").mkdir()
    shutil.copytree(results / "multiclass-v1" / "embeddings", results / "broken" / "embeddings")
    (results / "broken" / "embeddings" / "fold01.embeddings.npy").unlink()
    jobs = missing_predictions(results, "paper", range(2))
    assert len(jobs) == 8
    first = next(job for job in jobs if job.task_dir.name == "multiclass-v1")
    output = run("predict", results, "--seeds", "0", expect=1)
    assert "3 of 4 predictions done" in output and "failed: broken, paper, seed 0" in output and "fold01.embeddings.npy" in output
    content = first.file.read_bytes()
    run("predict", results, "--seeds", "0,1", "--task", "multiclass-v1")
    assert first.file.read_bytes() == content
    found = read_scores(results, "paper")
    assert set(found) == {"multiclass-v1", "multilabel-v1", "event-v1"} and len(found["multiclass-v1"].values) == 2
    assert found["multiclass-v1"].mean > 90 and found["multilabel-v1"].mean > 90 and found["event-v1"].mean > 60
    hparams = json.loads(content)["scores"]["hparams"]
    assert (hparams["lr"], hparams["hidden_layers"], hparams["hidden_dim"]) == (1e-4, 1, 1024) and "xavier_normal" in str(hparams)
    assert not list(results.rglob(".job-*")) and not list((results / "multiclass-v1" / "embeddings").glob("*predictions*"))
    assert "| log-mel | paper | 2 (event-v1 1, multilabel-v1 1) |" in unpadded(
        run("scores", results, "--csv", tmp_path / "min.csv")
    )
    assert "no score is below" in run("gate", results, "--min", tmp_path / "min.csv")
    (tmp_path / "more.csv").write_text("task,protocol,mean,half_width\nmulticlass-v1,paper,101,0.5\n")
    assert "multiclass-v1: " in run("gate", results, "--min", tmp_path / "more.csv", expect=1)
    assert "must end in .html" in run("report", results, "-o", tmp_path / "min.csv", expect=1)
    run("report", results, "-o", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert unpadded((tmp_path / "report.md").read_text()).startswith("| model | protocol | seeds | event-v1 |")
    assert (
        (tmp_path / "report.table.csv")
        .read_text()
        .startswith("model,protocol,seeds,event-v1,multiclass-v1,multilabel-v1,s(m),source\n")
    )
    assert "heareval 2021.1.3" in page and "4 predictions" in page and " cores" in page


def test_plan_lists_what_is_missing(embedded):
    lines = run("plan", embedded, "--seeds", "0-2", "--protocol", "hear").splitlines()
    assert len(lines) == 9 and lines[0].endswith(f"-m eval job {embedded / 'event-v1'} hear 0")
    assert "has no embeddings of gone" in run("plan", embedded, "--task", "gone", expect=1)


def test_check(tasks_dir, tmp_path):
    folder = shutil.copytree(tasks_dir / "multiclass-v1", tmp_path / "multiclass-v1")
    assert problems_of(TaskFolder(folder)) == []
    (folder / "16000" / "fold01" / "fold01-3.wav").unlink()
    (folder / "fold02.json").write_text("{")
    (folder / "labelvocabulary.csv").unlink()
    result = CliRunner().invoke(main, ["check", str(tmp_path)])
    assert result.exit_code == 1
    for problem in (
        "16000/fold01: 1 of 12 files missing, such as fold01-3.wav",
        "fold02.json is not JSON: ",
        "no labelvocabulary.csv",
    ):
        assert problem in result.output
    for number, content in enumerate((b"", b"RIFF")):
        (folder / "16000" / "fold00" / f"fold00-{number}.wav").write_bytes(content)
    soundfile.write(folder / "16000" / "fold00" / "fold00-2.wav", np.zeros(0), 16000)
    soundfile.write(folder / "16000" / "fold00" / "fold00-3.wav", np.zeros(99), 48000)
    metadata = json.loads((folder / "task_metadata.json").read_text())
    del metadata["evaluation"]
    (folder / "task_metadata.json").write_text(json.dumps(metadata))
    problems = " ".join(problems_of(TaskFolder(folder)))
    for problem in (
        "2 of 12 files unreadable, such as fold00-0.wav",
        "1 of 12 files empty",
        "at 48000 Hz",
        "task_metadata.json has no evaluation",
    ):
        assert problem in problems
    shutil.copytree(tasks_dir / "multiclass-v1", tmp_path / "esc50-v2.0.0-full")
    (tmp_path / ".fetch" / "fsd50k-v1.0-full").mkdir(parents=True)
    lines = CliRunner().invoke(main, ["check", str(tmp_path)]).output
    assert "esc50-v2.0.0-full: complete (36 clips, where HEAR's page lists 2,000)" in lines
    assert "fsd50k-v1.0-full: incomplete: `fetch` resumes it" in lines and "nsynth_pitch-v2.2.3-5h: missing" in lines
    with pytest.raises(ValueError, match="holds no HEAR tasks"):
        find_tasks(tasks_dir / "event-v1")


def test_results_of_other_embeddings_do_not_count(embedded, tmp_path):
    results = shutil.copytree(embedded, tmp_path / "log-mel")
    (job,) = missing_predictions(results, "paper", [0], ("multiclass-v1",))
    job.file.parent.mkdir()
    about = json.loads((job.task_dir / "embeddings" / "about.json").read_text())
    job.file.write_text(json.dumps({"embeddings": about["embeddings"], "scores": {"test": {"test_score": 0.5}}}))
    assert (
        missing_predictions(results, "paper", [0], ("multiclass-v1",)) == []
        and read_scores(results, "paper")["multiclass-v1"].mean == 50
    )
    job.file.write_text(json.dumps({"embeddings": "of others", "scores": {"test": {"test_score": 0.5}}}))
    assert missing_predictions(results, "paper", [0, 0], ("multiclass-v1",)) == [job]
    with pytest.raises(ValueError, match="belongs to other embeddings"):
        read_scores(results, "paper")


def test_a_changed_model_or_task_is_another(tasks_dir, embedded, tmp_path):
    """A model is known by its weights, wherever they lie; a task by its labels."""
    task = shutil.copytree(tasks_dir / "multiclass-v1", tmp_path / "tasks" / "multiclass-v1")
    small = tiny_recipe(tmp_path).model_config()
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        save_model(tmp_path / name, small, MaskedAutoencoder(small).state_dict())
    run("embed", tmp_path / "tasks", tmp_path / "results", "--model", tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "elsewhere")
    assert "1 already embedded" in run("embed", tmp_path / "tasks", tmp_path / "results", "--model", tmp_path / "elsewhere")
    output = run("embed", tmp_path / "tasks", tmp_path / "results", "--model", tmp_path / "two", expect=1)
    assert "was made with another weights" in output
    config = tmp_path / "elsewhere" / "config.json"
    config.write_text(config.read_text().replace('"pooling": "mean"', '"pooling": "max"'))
    output = run("embed", tmp_path / "tasks", tmp_path / "results", "--model", tmp_path / "elsewhere", expect=1)
    assert "was made with another pooling" in output
    results = shutil.copytree(embedded, tmp_path / "log-mel")
    (task / "fold01.json").write_text((task / "fold01.json").read_text().replace("high", "low"))
    assert "was made of another fold01.json" in run("embed", tmp_path / "tasks", results, "--module", "eval.log_mel", expect=1)


def test_a_task_that_cannot_be_embedded_stops_no_other(tasks_dir, tmp_path):
    shutil.copytree(tasks_dir, tmp_path / "tasks")
    (tmp_path / "tasks" / "event-v1" / "16000" / "train" / "train-0.wav").write_bytes(b"no audio")
    output = run("embed", tmp_path / "tasks", tmp_path / "results", "--module", "eval.log_mel", expect=1)
    assert "not embedded: " in output and "16000/train: 1 of 12 files unreadable, such as train-0.wav" in output
    assert "2 of 3 tasks embedded" in output and "Traceback" not in output


@pytest.mark.parametrize(("limit", "used", "expected"), [("max", 0, 8 << 30), (3 << 30, 1 << 30, 2 << 30)])
def test_memory_of_a_container(tmp_path, monkeypatch, limit, used, expected):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=8 << 30))
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text(f"{used}\n")
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    assert machine.available_memory() == expected
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 1000\n")  # page cache, which is given back
    assert machine.available_memory() == expected + 1000 * (limit != "max")


def test_jobs_at_a_time_are_those_that_memory_holds(embedded, monkeypatch):
    jobs = missing_predictions(embedded, "paper", [0])
    most = max(map(memory_needed, jobs))
    assert PROCESS_BYTES < most < 1.1 * PROCESS_BYTES
    monkeypatch.setattr("eval.predict.available_memory", lambda: int(2.5 * most))
    assert fitting(jobs) == 2
    monkeypatch.setattr("eval.predict.available_memory", lambda: 100 * most)
    assert fitting(jobs) == 100


def test_one_process_at_a_time(tasks_dir, embedded, tmp_path):
    with (
        FileLock(embedded / "event-v1" / "paper" / ".seed-7.lock"),
        pytest.raises(ValueError, match="another process is computing event-v1"),
    ):
        compute(Prediction(embedded / "event-v1", "paper", 7))
    (tmp_path / "event-v1").mkdir()
    with FileLock(tmp_path / "event-v1" / ".embeddings.lock"):
        output = run("embed", tasks_dir, tmp_path, "--module", "eval.log_mel", "--task", "event-v1", expect=1)
    assert "another process is embedding event-v1" in output


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        ("nosuch", "{}", "nosuch is not a HEAR module that can be loaded with these options: No module named 'nosuch'"),
        ("json", "{}", "json is not a HEAR module"),
        (
            "hear_mwmae",
            '{"nosuch": 1}',
            "hear_mwmae is not a HEAR module that can be loaded with these options: "
            "load_model() got an unexpected keyword argument 'nosuch'",
        ),
    ],
)
def test_modules_that_cannot_be_used(tasks_dir, tmp_path, module, options, message):
    output = run("embed", tasks_dir, tmp_path, "--module", module, "--model-options", options, "--task", "event-v1", expect=1)
    assert f"not embedded: {message}" in output and "Traceback" not in output


def predict_recorded(folder: Path, protocol: str, seed: int) -> None:
    """Prints what the kit is asked to train, one epoch each, and how it went."""
    from heareval.predictions import task_predictions

    def short(**arguments: Any) -> object:
        conf = arguments["conf"]
        seen.append([conf["hidden_layers"], conf["hidden_dim"], conf["lr"], conf["dropout"], conf["initialization"].__name__])
        return train(**(arguments | {"conf": conf | {"max_epochs": 1, "check_val_every_n_epoch": 1}}))

    train, seen = task_predictions.task_predictions_train, []
    task_predictions.task_predictions_train = short
    os.chdir(folder.parent)
    scores = kit.predict_task(folder, protocol, seed)
    print(json.dumps([seen, scores["aggregated_scores"]["validation_score_mean"], scores["fold00"]["test_loss"]]))


def recorded(embedded: Path, folder: Path, protocol: str, seed: int) -> tuple[list, float, float]:
    copied = shutil.copytree(embedded / "multiclass-v1" / "embeddings", folder / f"{protocol}-{seed}")
    done = forked.Forked(predict_recorded, copied, protocol, seed).wait()
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_protocols_and_seeds_reach_the_kit(embedded, tmp_path):
    """What is tried: points of the grid on the first fold, then the best of them on the
    other two.
    """
    hear, *_ = recorded(embedded, tmp_path, "hear", 0)
    assert len(hear) == 8 + 2 and len({tuple(conf) for conf in hear[:8]}) == 8
    assert (
        {conf[0] for conf in hear} == {1, 2} and {conf[3] for conf in hear} == {0.1} and len({conf[2] for conf in hear[:8]}) > 2
    )
    runs = [recorded(embedded, tmp_path, "paper", seed) for seed in (0, 1)]
    for paper, *_ in runs:
        assert len(paper) == 2 + 2 and {conf[3] for conf in paper[:2]} == {0.1, 0.25}
        assert {(*conf[:3], conf[4]) for conf in paper} == {(1, 1024, 1e-4, "xavier_normal_")}
    assert runs[0][2] != runs[1][2]  # other initial weights
