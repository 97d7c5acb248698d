"""Recipes: those of the package, changes, inheritance, and what is refused."""

from __future__ import annotations

import dataclasses
import re

import pytest
from tiny_run import RECIPE, tiny_recipe, write_recipe

from hear_mwmae.config import derive_window_sizes, preset
from hear_mwmae.training.optim import schedule
from hear_mwmae.training.recipe import Recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_are_what_their_names_say(name):
    recipe = Recipe.read(name)
    config = recipe.model_config()
    assert name.startswith(recipe.preset) and config.encoder == preset(recipe.preset).encoder
    if config.kind == "mwmae" and "window_sizes" not in recipe.model.get("decoder", {}):
        assert config.decoder.window_sizes == derive_window_sizes(config.num_tokens)
    if name.startswith("mwmae-base-audioset"):
        departures = {
            field.name
            for field in dataclasses.fields(Recipe)
            if getattr(recipe, field.name) != getattr(Recipe.read("mwmae-base-audioset"), field.name)
        }
        assert len(departures) == (name != "mwmae-base-audioset")
    ablation = re.fullmatch(r".*-(data|depth|patch)([0-9x]+)", name)
    what, value = ablation.groups() if ablation else ("", "")
    assert recipe.data_fraction == (int(value) / 100 if what == "data" else 1)
    assert list(recipe.patch_size) == ([int(size) for size in value.split("x")] if what == "patch" else [4, 16])
    if "audioset" in name:
        assert config.decoder.depth == (int(value) if what == "depth" else 4) and config.decoder.width == 384
        assert recipe.strategy == ("fsdp" if recipe.preset.endswith(("large", "huge")) else "ddp")
        assert recipe.activation_checkpointing == recipe.preset.endswith("huge")


def test_the_paper_in_numbers():
    recipe = Recipe.read("mwmae-base-audioset")
    assert recipe.steps * recipe.batch_size == pytest.approx(100 * 2_032_320, rel=1e-5)
    warmup, decay = recipe.warmup_and_decay
    assert warmup * recipe.batch_size == pytest.approx(10 * 2_032_320, rel=1e-4)
    assert (recipe.optimiser, recipe.weight_decay, recipe.precision, recipe.kinds) == ("adamw", 0.05, "bfloat16", {})
    assert (recipe.model_config().mask_ratio, recipe.model_config().norm_pix_loss) == (0.8, False)
    assert warmup + decay == recipe.steps and recipe.learning_rates[0] == pytest.approx(6e-5)
    assert Recipe.read("mwmae-base-audioset-patch5x5").model_config().decoder.heads == 16
    assert Recipe.read("mwmae-base-audioset-depth8").model_config().decoder.depth == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, r"unknown keys \['colour'\]"),
        ({"steps": None}, r"missing keys \['steps'\]"),
        ({"steps": "many"}, "steps should be a valid integer, got 'many'"),
        ({"batch_size": 0}, "batch_size should be greater than 0, got 0"),
        ({"optimiser": "sgd"}, "optimiser should be 'adamw' or 'muon', got 'sgd'"),
        ({"precision": "float8"}, "precision should be 'auto', 'float32' or 'bfloat16', got 'float8'"),
        ({"preset": "mwmae-giant"}, "unknown preset"),
        ({"weight_decay": -0.1}, "weight_decay should be greater than or equal to 0, got -0.1"),
        ({"base_learning_rate": float("nan")}, "base_learning_rate should be a finite number, got nan"),
        ({"base_muon_learning_rate": float("inf")}, "base_muon_learning_rate should be a finite number, got inf"),
        ({"seed": -1}, "seed should be greater than or equal to 0, got -1"),
    ],
)
def test_bad_recipes(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_recipe(tmp_path, **changes)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("notes = 0.5", "notes = 0.6", "sum to 1"),
        ("notes = 0.5", "notes = nan", "kinds.notes should be a finite number, got nan"),
        ("notes = 0.5", "notes = 'half'", "kinds.notes should be a valid number, got 'half'"),
        ("width = 32, depth = 1, heads = 2", "widht = 32", r"unknown keys \['widht'\]"),
        ("preset =", "preset", "cannot read recipe"),
    ],
)
def test_bad_tables_in_recipes(tmp_path, old, new, message):
    (tmp_path / "recipe.toml").write_text(RECIPE.replace(old, new))
    with pytest.raises(ValueError, match=message):
        Recipe.read(tmp_path / "recipe.toml")


def test_changes_come_on_top(tmp_path):
    path = write_recipe(tmp_path / "recipe.toml")
    recipe = Recipe.read(path, ["steps=100", "model.decoder.depth=2", "precision=bfloat16", "kinds={notes = 1.0}", "seed = 3"])
    assert (recipe.steps, recipe.precision, recipe.kinds, recipe.seed) == (100, "bfloat16", {"notes": 1.0}, 3)
    assert recipe.model_config().decoder.depth == 2 and recipe.model_config().decoder.width == 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("steps", "key=value, got 'steps'"),
        ("=3", "key=value"),
        ("stepz=3", r"unknown keys \['stepz'\]"),
        ("steps=soon", "steps should be a valid integer, got 'soon'"),
        ("model.decoder.dept=2", r"unknown keys \['dept'\]"),
        ("a b=3", "cannot understand"),
        ("strategy=fsdp", "muon works on whole matrices"),
        ("data_fraction=1.5", "data_fraction should be less than or equal to 1, got 1.5"),
        ("patch_size=[4]", r"patch_size should be \[time frames, mel bands\], got \[4\]"),
        ("patch_size=[7, 16]", "do not tile"),
        ("accumulate=0", "accumulate should be greater than 0, got 0"),
        ("compile=1", "compile should be a valid boolean, got 1"),
    ],
)
def test_bad_changes(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        Recipe.read(write_recipe(tmp_path / "recipe.toml"), [change])


def test_windows_that_a_recipe_names_are_not_derived(tmp_path):
    """The 320 patches of 5 x 10 have windows of 14 sizes, among whose heads no width of the presets
    can be divided.
    """
    patches = ["patch_size=[5, 10]"]
    with pytest.raises(ValueError, match="not divisible by 14 heads"):
        Recipe.read(write_recipe(tmp_path / "recipe.toml"), patches)
    windows = ["model.decoder.heads=4", "model.decoder.window_sizes=[8, 32, 0, 0]"]
    config = Recipe.read(tmp_path / "recipe.toml", [*patches, *windows]).model_config()
    assert (config.patch_size, config.num_tokens, config.decoder.window_sizes) == ((5, 10), 320, (8, 32, 0, 0))
    with pytest.raises(ValueError, match=r"windows \[7\] do not divide its 320 tokens"):
        Recipe.read(tmp_path / "recipe.toml", [*patches, "model.decoder.heads=2", "model.decoder.window_sizes=[7, 0]"])


def test_the_order_of_keys_does_not_make_another_run(tmp_path):
    one = tiny_recipe(tmp_path)
    other = dataclasses.replace(one, kinds=dict(reversed(one.kinds.items())), model=dict(reversed(one.model.items())))
    assert list(one.kinds) != list(other.kinds) and one.fingerprint() == other.fingerprint()
    assert one.fingerprint() != dataclasses.replace(one, seed=1).fingerprint()


def test_a_recipe_extends_another(tmp_path):
    write_recipe(tmp_path / "base.toml")
    (tmp_path / "more.toml").write_text('extends = "base.toml"\nsteps = 30\nmodel = { decoder = { depth = 3 } }\n')
    (tmp_path / "most.toml").write_text('extends = "more.toml"\nseed = 4\n')
    recipe = Recipe.read(tmp_path / "most.toml")
    assert (recipe.steps, recipe.seed, recipe.model_config().decoder.depth) == (30, 4, 3)
    assert recipe.model_config().decoder.width == 32
    (tmp_path / "mine.toml").write_text('extends = "mwmae-tiny-cpu"\nseed = 5\n')
    assert Recipe.read(tmp_path / "mine.toml") == dataclasses.replace(Recipe.read("mwmae-tiny-cpu"), seed=5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('extends = "gone.toml"', r"no recipe .*gone\.toml"),
        ("extends = 3", "extends must name a file, got 3"),
        ('extends = "self.toml"', "extends itself"),
    ],
)
def test_bad_inheritance(tmp_path, text, message):
    (tmp_path / "self.toml").write_text(text + "\n")
    with pytest.raises(ValueError, match=message):
        Recipe.read(tmp_path / "self.toml")


def test_an_unknown_recipe_names_the_known_ones():
    with pytest.raises(ValueError, match=r"no recipe paper: .*mwmae-base-audioset"):
        Recipe.read("paper")


def test_a_recipe_says_only_what_it_decides(tmp_path):
    """Two keys are a run; the schedule follows the steps, so that lowering them alone works."""
    (tmp_path / "short.toml").write_text('preset = "mwmae-tiny"\nsteps = 200\n')
    recipe = Recipe.read(tmp_path / "short.toml")
    assert recipe.warmup_and_decay == (20, 180) and recipe.precision == "auto"
    assert Recipe.read(tmp_path / "short.toml", ["steps=5"]).warmup_and_decay == (0, 5)
    shipped = Recipe.read("mwmae-tiny-cpu")
    assert shipped.warmup_and_decay == (shipped.warmup_steps, shipped.decay_steps)
    few = Recipe.read("mwmae-tiny-cpu", ["steps=50"])
    warmup, decay = few.warmup_and_decay
    assert warmup + decay == 50 and warmup / decay == pytest.approx(shipped.warmup_steps / shipped.decay_steps, rel=0.2)
    assert schedule(warmup, few) == 1 and schedule(50, few) == 0
    assert few.fingerprint() != shipped.fingerprint()  # its first steps are others
    assert dataclasses.replace(shipped, steps=9000).fingerprint() == shipped.fingerprint()
