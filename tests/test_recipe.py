"""Recipes: those of the package, changes, and what is refused."""

import dataclasses

import pytest
from tiny_run import tiny_recipe, write_recipe

from hear_mwmae.config import derive_window_sizes, preset
from hear_mwmae.training.recipe import RECIPES_DIR, Recipe
from hear_mwmae.weights import DEFAULT_MODEL, WEIGHTS_DIR, read_config


def test_shipped_recipes_are_what_their_names_say():
    sizes = {"tiny": "tiny", "small": "small", "base": "base", "audioset": "base"}
    embedded = read_config(WEIGHTS_DIR / DEFAULT_MODEL / "config.json")
    assert {file.stem for file in RECIPES_DIR.iterdir()} == set(sizes)
    for name, size in sizes.items():
        config = Recipe.read(name).model_config()
        assert config.encoder == preset(f"mwmae-{size}").encoder
        assert config.pooling == ("mean" if name == "audioset" else embedded.pooling)
        assert config.decoder.window_sizes == derive_window_sizes(config.num_tokens)


def test_the_paper_in_numbers():
    recipe = Recipe.read("audioset")
    assert recipe.steps * recipe.batch_size == pytest.approx(100 * 2_032_320, rel=1e-5)
    assert recipe.warmup_steps * recipe.batch_size == pytest.approx(10 * 2_032_320, rel=1e-4)
    assert (recipe.optimizer, recipe.weight_decay, recipe.kinds) == ("adamw", 0.05, {})
    assert (recipe.precision, recipe.data_fraction) == ("bfloat16", 1)
    config = recipe.model_config()
    assert (config.mask_ratio, config.norm_pix_loss, config.patch_size) == (0.8, False, (4, 16))
    assert (config.decoder.depth, config.decoder.width) == (4, 384)
    assert recipe.warmup_ratio + recipe.decay_ratio == 1
    assert recipe.learning_rates[0] == pytest.approx(6e-5)
    # Its other runs are changes of this one.
    assert Recipe.read("audioset", ["patch_size=[5, 5]"]).model_config().decoder.heads == 16
    assert Recipe.read("audioset", ["preset=mae-huge"]).model_config().kind == "mae"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("color=red", "color: Unexpected"),
        ("base_learning_rate=nan", "base_learning_rate should be a finite number"),
        ("kinds={notes = 0.6, effects = 0.5}", "sum to 1"),
        ("warmup_ratio=0.6", "warmup_ratio 0.6 and decay_ratio 0.5"),
        ("strategy=fsdp", "muon works on whole matrices"),
        ("patch_size=[7, 16]", "do not tile"),
        ("steps", "key=value"),
        ("a b=3", "cannot understand"),
    ],
)
def test_bad_changes(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        Recipe.read(write_recipe(tmp_path / "recipe.toml"), [change])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("preset", "cannot read recipe"),
        ('preset = "mwmae-tiny"', "steps: Field required"),
    ],
)
def test_bad_files(tmp_path, text, message):
    (tmp_path / "self.toml").write_text(f"{text}\n")
    with pytest.raises(ValueError, match=message):
        Recipe.read(tmp_path / "self.toml")


def test_windows_that_a_recipe_names_are_not_derived(tmp_path):
    """The 320 patches of 5 x 10 have windows of 14 sizes, among whose heads no width of the presets
    can be divided.
    """
    path = write_recipe(tmp_path / "recipe.toml")
    patches = ["patch_size=[5, 10]"]
    with pytest.raises(ValueError, match="not divisible by 14 heads"):
        Recipe.read(path, patches)
    windows = ["model.decoder.heads=4", "model.decoder.window_sizes=[8, 32, 0, 0]"]
    config = Recipe.read(path, [*patches, *windows]).model_config()
    assert (config.patch_size, config.num_tokens) == ((5, 10), 320)
    assert config.decoder.window_sizes == (8, 32, 0, 0)


def test_a_written_recipe_is_the_same(tmp_path):
    for recipe in (Recipe.read("tiny"), tiny_recipe(tmp_path, weight_decay=1.0)):
        recipe.write(tmp_path / "written.toml")
        assert Recipe.read(tmp_path / "written.toml") == recipe


def test_what_makes_another_run(tmp_path):
    """What decides the weights; not the order of keys, the length, or the layout."""
    one = tiny_recipe(tmp_path)
    kinds = dict(reversed(one.kinds.items()))
    model = one.model | {"pooling": "max"}
    same = dataclasses.replace(one, kinds=kinds, model=model, steps=99, compile=True, workers=3)
    assert one.identity() == same.identity()
    for change in ({"seed": 1}, {"patch_size": [8, 16]}, {"start_from": ""}, {"warmup_ratio": 0.1}):
        assert dataclasses.replace(one, **change).identity() != one.identity()


def test_changes_come_on_top(tmp_path):
    changes = ["precision=bfloat16", "kinds={notes = 1.0}", "model.encoder.depth = 2"]
    recipe = Recipe.read(write_recipe(tmp_path / "recipe.toml"), changes)
    assert (recipe.precision, recipe.kinds) == ("bfloat16", {"notes": 1.0})
    config = recipe.model_config()
    assert (config.encoder.depth, config.encoder.width, config.decoder.depth) == (2, 32, 1)
    with pytest.raises(ValueError, match=r"no recipe gone\.toml: .* audioset, base, small, tiny"):
        Recipe.read("gone.toml")
