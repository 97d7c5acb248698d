"""eval/: real heareval on small tasks of both kinds, made from generated sounds."""

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from hear_tasks import make_task
from tiny_run import tiny_recipe

from eval import kit
from eval.__main__ import main
from eval.predict import missing_results
from eval.scores import read_scores
from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.weights import read_model, save_model


@pytest.fixture(scope="module")
def tasks_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    for kind in ("multiclass", "multilabel"):
        make_task(folder / f"{kind}-v1", kind, 0.5)
    return folder


def run(*arguments: object, expect: int = 0) -> str:
    """In a process of its own: heareval brings tensorflow along, and changes what
    torch.load does.
    """
    done = forked.run(*arguments, main=forked.EVAL, environment={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == expect, done.stderr[-3000:]
    return done.stdout + (done.stderr if expect else "")


@pytest.fixture(scope="module")
def embedded(tasks_dir, tmp_path_factory) -> Path:
    """Results of the log-mel module, embeddings only."""
    results = tmp_path_factory.mktemp("results") / "log-mel"
    output = run("embed", tasks_dir, "-o", results, "--module", "eval.log_mel")
    assert f"2 of 2 tasks embedded into {results}, 0 already embedded" in output
    return results


def test_embeddings(tasks_dir, embedded):
    """One vector per clip, and nothing else that takes space; what is there is kept."""
    for kind in ("multiclass", "multilabel"):
        folder = embedded / f"{kind}-v1" / "embeddings"
        assert not [path for path in folder.iterdir() if path.is_dir()]
        assert [path.name for path in folder.parent.iterdir()] == ["embeddings"]
    files = embedded.glob("*/embeddings/*dimensions.json")
    assert [json.loads(path.read_text()) for path in files] == [[12, 160]] * 6
    about = embedded / "multilabel-v1" / "embeddings" / "about.json"
    before = about.stat().st_mtime_ns
    arguments = ["embed", tasks_dir / "multilabel-v1", tasks_dir, "-o", embedded]
    assert "2 already embedded" in run(*arguments, "--module", "eval.log_mel")
    assert about.stat().st_mtime_ns == before
    output = run(*arguments, "--module", "hear_mwmae", expect=1)
    assert "was made with another module, weights, pooling" in output


def test_xares():
    """Its own check of an encoder."""
    checker = pytest.importorskip("xares.audio_encoder_checker")
    from eval.xares_encoder import MwMaeEncoder

    encoder = MwMaeEncoder()
    assert checker.check_audio_encoder(encoder)
    assert encoder(torch.rand(2, 50000)).shape == (2, 78, 1280)  # of 3125 ms


def test_predictions_of_every_kind(embedded, tmp_path):
    """A tone's height is easy to tell; a task that fails stops no other, and what is done is not
    computed again.
    """
    results = shutil.copytree(embedded, tmp_path / "log-mel")
    (results / "broken").mkdir()
    shutil.copytree(results / "multiclass-v1" / "embeddings", results / "broken" / "embeddings")
    (results / "broken" / "embeddings" / "fold01.embeddings.npy").unlink()
    missing = missing_results(results, "paper", [0])
    assert len(missing) == 3
    first = next(result for result in missing if result.task_dir.name == "multiclass-v1")
    assert "'2-1' is no range" in run("predict", results, "--seeds", "0,2-1", expect=2)
    output = run("predict", results, "--seeds", "0", "--jobs", 2, expect=1)
    assert "2 of 3 predictions done" in output and "failed: broken, paper, seed 0" in output
    assert "fold01.embeddings.npy" in output
    assert re.search(r"^multiclass-v1, paper, seed 0: \d+\.\d$", output, re.M)
    left = [result.task_dir.name for result in missing_results(results, "paper", [0])]
    assert left == ["broken"]
    found = read_scores(results, "paper")
    assert set(found) == {"multiclass-v1", "multilabel-v1"}
    assert found["multiclass-v1"].mean > 90 and found["multilabel-v1"].mean > 90
    hparams = json.loads(first.file.read_text())["scores"]["hparams"]
    chosen = (hparams["lr"], hparams["hidden_layers"], hparams["hidden_dim"])
    assert chosen == (1e-4, 1, 1024) and "xavier_normal" in str(hparams)
    table = re.sub(" +", " ", run("scores", results))
    assert "| log-mel | 1 |" in table
    run("report", results, "-o", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "heareval 2021.1.3" in page and "<th>multilabel-v1</th>" in page


def check(folder: Path, expect: int) -> str:
    """The output of `python -m eval check`."""
    result = CliRunner().invoke(main, ["check", str(folder)])
    assert result.exit_code == expect and "Traceback" not in result.output
    return result.output


def test_results_of_other_embeddings_do_not_count(embedded, tmp_path):
    results = shutil.copytree(embedded, tmp_path / "log-mel")
    (result,) = missing_results(results, "paper", [0], ("multiclass-v1",))
    result.file.parent.mkdir()
    about = json.loads((result.task_dir / "embeddings" / "about.json").read_text())
    content = {"embeddings": about["made"], "scores": {"test": {"test_score": 0.5}}}
    result.file.write_text(json.dumps(content))
    assert missing_results(results, "paper", [0], ("multiclass-v1",)) == []
    assert read_scores(results, "paper")["multiclass-v1"].mean == 50
    result.file.write_text(json.dumps(content | {"embeddings": "of others"}))
    assert missing_results(results, "paper", [0, 0], ("multiclass-v1",)) == [result]
    with pytest.raises(ValueError, match="belongs to other embeddings"):
        read_scores(results, "paper")


def test_a_task_that_cannot_be_embedded_stops_no_other(tasks_dir, tmp_path):
    output = run("embed", tasks_dir, "-o", tmp_path, "--module", "nosuch", expect=1)
    assert "Error: nosuch is not a HEAR module" in output and "No module named" in output
    tasks = shutil.copytree(tasks_dir, tmp_path / "tasks")
    (tasks / "multiclass-v1" / "16000" / "fold01" / "fold01-0.wav").write_bytes(b"no audio")
    output = run("embed", tasks, "-o", tmp_path / "out", "--module", "eval.log_mel", expect=1)
    assert "not embedded: " in output and "Traceback" not in output
    assert "16000/fold01: 1 of 12 files unreadable, such as fold01-0.wav" in output
    assert "1 of 2 tasks embedded" in output


def test_check_finds_audio_that_the_kit_misreads(tasks_dir, tmp_path):
    folder = shutil.copytree(tasks_dir / "multiclass-v1", tmp_path / "multiclass-v1")
    assert check(tmp_path, 0) == "multiclass-v1: complete\n"
    audio = folder / "16000" / "fold00"
    soundfile.write(audio / "fold00-2.wav", np.zeros(0), 16000)
    soundfile.write(audio / "fold00-3.wav", np.zeros(24000), 48000)
    soundfile.write(audio / "fold00-4.wav", np.zeros((8000, 2)), 16000)
    soundfile.write(audio / "fold00-5.wav", np.zeros(7000), 16000)
    output = check(tmp_path, 1)
    for problem in (
        "1 of 12 files empty, such as fold00-2.wav",
        "1 of 12 files at 48000 Hz, such as fold00-3.wav",
        "1 of 12 files with 2 channels, such as fold00-4.wav",
        "1 of 12 files not 0.5 s long, which is their sample_duration, such as fold00-5.wav",
    ):
        assert problem in output
    for number in range(2, 6):
        soundfile.write(audio / f"fold00-{number}.wav", np.zeros(8000 - number), 16000)
    assert "clips have 7995 to 8000 samples, where the kit needs equal" in check(tmp_path, 1)


def describe(folder: Path, **values: object) -> None:
    """Change the metadata of a task."""
    file = folder / "task_metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def relabel(folder: Path, high: str, low: str) -> None:
    for file in (*folder.glob("fold0*.json"), folder / "labelvocabulary.csv"):
        file.write_text(file.read_text().replace("high", high).replace("low", low))


def number_labels(folder: Path, text: str) -> None:
    (folder / "labelvocabulary.csv").write_text(f"idx,label\n{text}")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda task: describe(task, splits=["fold00", "fold01"]), "splits: List should have at"),
        (lambda task: describe(task, sample_duration="0.5"), "sample_duration should be a valid"),
        (lambda task: describe(task, evaluation=["loudness"]), "which heareval does not know"),
        (lambda task: describe(task, embedding_type="event"), "embedding_type should be 'scene'"),
        (lambda task: describe(task, split_mode="leave-one-out"), "split_mode should be 'train"),
        (
            lambda task: describe(task, split_mode="trainvaltest", splits=["train", "dev", "test"]),
            "the splits must be train, valid and test",
        ),
        # Those that pandas takes for missing values or for other numbers.
        (lambda task: relabel(task, "NA", "b"), "lacks 1 of 2 labels, such as NA, as"),
        (lambda task: relabel(task, "060", "72"), "lacks 1 of 2 labels, such as 060, as"),
        (lambda task: number_labels(task, "0,a\n1,low\n"), "lacks 1 of 2 labels, such as high, as"),
        (lambda task: number_labels(task, "0,high\n0,low\n"), "must number every label once"),
    ],
)
def test_check_finds_tasks_that_the_kit_cannot_use(tasks_dir, tmp_path, change, problem):
    folder = shutil.copytree(tasks_dir / "multiclass-v1", tmp_path / "task")
    change(folder)
    assert problem in check(folder, 1)


def test_a_changed_model_or_task_is_another(tasks_dir, embedded, tmp_path):
    """A model is known by its weights and configuration, wherever they lie, and its options; a task
    by its labels.
    """
    task = shutil.copytree(tasks_dir / "multiclass-v1", tmp_path / "multiclass-v1")
    small = tiny_recipe(tmp_path).model_config()
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        save_model(tmp_path / name, small, MaskedAutoencoder(small).state_dict())

    def embed(name: str, pooling: str = "std+max", expect: int = 0) -> str:
        arguments = ["embed", task, "-o", tmp_path / "results", "--model", tmp_path / name]
        options = json.dumps({"pooling": pooling})
        return run(*arguments, "--model-options", options, expect=expect)

    embed("one")
    dimensions = tmp_path / "results/multiclass-v1/embeddings/fold00.embedding-dimensions.json"
    assert json.loads(dimensions.read_text()) == [12, 320]
    (tmp_path / "one").rename(tmp_path / "elsewhere")
    assert "1 already embedded" in embed("elsewhere")
    other = dataclasses.replace(small, frontend=dataclasses.replace(small.frontend, f_min=1000.0))
    save_model(tmp_path / "other-input", other, read_model(tmp_path / "elsewhere")[1])
    for name in ("two", "other-input"):
        assert "was made with another weights" in embed(name, expect=1)
    assert "was made with another options, pooling" in embed("elsewhere", "max", expect=1)
    (task / "fold01.json").write_text((task / "fold01.json").read_text().replace("high", "low"))
    output = run("embed", task, "-o", embedded, "--module", "eval.log_mel", expect=1)
    assert "was made of another fold01.json" in output


def predict_recorded(folder: Path, protocol: str, seed: int) -> None:
    """Prints what the kit is asked to train, one epoch each, and the test loss."""
    from heareval.predictions import task_predictions

    names = ("hidden_layers", "hidden_dim", "lr", "dropout")

    def short(**arguments: Any) -> object:
        conf = arguments["conf"]
        seen.append([*(conf[name] for name in names), conf["initialization"].__name__])
        arguments["conf"] = conf | {"max_epochs": 1, "check_val_every_n_epoch": 1}
        return train(**arguments)

    train, seen = task_predictions.task_predictions_train, []
    task_predictions.task_predictions_train = short
    os.chdir(folder.parent)
    scores = kit.predict_task(folder, protocol, seed)
    print(json.dumps([seen, scores["fold00"]["test_loss"]]))


def test_protocols_and_seeds_reach_the_kit(embedded, tmp_path):
    """What is tried: points of the grid on the first fold, then the best of them on the
    other two.
    """

    def recorded(protocol: str, seed: int) -> tuple[list, float]:
        source = embedded / "multiclass-v1" / "embeddings"
        copied = shutil.copytree(source, tmp_path / f"{protocol}-{seed}")
        done = forked.Forked(predict_recorded, copied, protocol, seed).wait()
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    hear, _ = recorded("hear", 0)
    assert len(hear) == 8 + 2 and len({tuple(conf) for conf in hear[:8]}) == 8
    assert {conf[0] for conf in hear} == {1, 2} and {conf[3] for conf in hear} == {0.1}
    (one, loss), (_, other) = (recorded("paper", seed) for seed in (0, 1))
    assert len(one) == 2 + 2 and {conf[3] for conf in one[:2]} == {0.1, 0.25}
    assert {(*conf[:3], conf[4]) for conf in one} == {(1, 1024, 1e-4, "xavier_normal_")}
    assert loss != other  # other initial weights
