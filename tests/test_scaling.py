"""The grid of kinds, sizes and amounts of data: interrupted, resumed, probed and drawn."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.image
from click.testing import CliRunner
from tiny_run import write_recipe

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import scaling


def test_a_grid_goes_on_where_it_stopped(data, task, tmp_path, monkeypatch):
    decoder = {"width": 32, "depth": 1, "heads": 2, "window_sizes": [25, 0]}
    model = {"encoder": {"width": 32, "depth": 1, "heads": 2}, "decoder": decoder}
    recipe = write_recipe(tmp_path / "recipe.toml", kinds={}, model=model)
    arguments = [str(data), str(tmp_path / "out"), str(task), "--recipe", str(recipe), "--steps", "2", "--size", "tiny"]
    arguments += ["--fraction", "0.5", "--fraction", "1"]
    trained, pretrain = [], scaling.pretrain

    def counted(settings, pack, folder):
        trained.append(folder.name)
        assert settings.model_config().kind == folder.name.split("-")[0]
        if len(trained) == 2:
            raise KeyboardInterrupt
        return pretrain(settings, pack, folder)

    monkeypatch.setattr(scaling, "pretrain", counted)
    assert CliRunner().invoke(scaling.main, arguments).exit_code != 0
    assert len(scaling.read_rows(tmp_path / "out" / "scaling.csv")) == 2  # the task, and the mean of all
    result = CliRunner().invoke(scaling.main, arguments)
    assert result.exit_code == 0, result.output
    assert trained[2:] == ["mwmae-tiny-0.5-0", "mae-tiny-1-0", "mwmae-tiny-1-0"]
    rows = scaling.read_rows(tmp_path / "out" / "scaling.csv")
    assert [row["kind"] for row in rows if row["task"] == "mean"] == ["mae", "mwmae", "mae", "mwmae"]
    for row in rows:
        assert float(row["low"]) <= float(row["score"]) <= float(row["high"])
    assert rows[0]["score"] == rows[1]["score"]  # the mean over one task
    assert matplotlib.image.imread(tmp_path / "out" / "scaling.png").std() > 0.01
    result = CliRunner().invoke(scaling.main, [*arguments, "--pooling", "mean"])
    assert result.exit_code == 1 and "holds a grid with other settings" in result.output
