"""A recipe: one small TOML file that says everything about a pretraining run, or how it departs from another file."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..config import ModelConfig, preset
from ..errors import HearMwmaeError, did_you_mean
from ..weights import DEFAULT_MODEL

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

PRECISIONS = ("float32", "bfloat16")
OPTIMISERS = ("adamw", "muon")
STRATEGIES = ("ddp", "fsdp")
#: The batch that base rates are given for.
BASE_BATCH_SIZE = 256
EXTENDS = "extends"
#: What a run starts from, where it is no model.
RANDOM = "random"
RECIPES_DIR = Path(__file__).with_name("recipes")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, but the audio itself. Fields are the keys of the file."""

    preset: str  #: a model of the paper, see `hear_mwmae.config.preset_names`
    patch_size: list  #: [time frames, mel bands]; the decoder's windows follow from it by the paper's rule
    model: dict  #: departures from the preset, nested like config.json
    start_from: str  #: "random" weights, or those of a model, as `load_model` takes it ("" is the embedded one)
    kinds: dict[str, float]  #: shares of the crops by kind of clip, summing to 1; empty: each clip once per epoch
    data_fraction: float  #: part of the clips that is used, chosen by the seed
    semitones: float  #: each clip is played slower or faster, by a draw from up to so many semitones either way; 0: as it is
    steps: int
    warmup_steps: int
    decay_steps: int  #: length of the final cosine to 0; the rate is constant before. steps - warmup_steps is the paper's
    batch_size: int  #: crops per update, over all processes and accumulated parts
    optimiser: str  #: "adamw" (the paper's), or "muon" on hidden matrices and AdamW on the rest
    base_learning_rate: float  #: AdamW's peak rate for a batch of 256; the rate is proportional to batch_size
    base_muon_learning_rate: float  #: Muon's likewise, scaled to match AdamW's update size; unused with "adamw"
    weight_decay: float
    clip_gradient: float  #: largest norm of the whole gradient; 0 does not clip
    precision: str  #: of the forward pass, by autocast
    seed: int
    # What follows decides how the computation is laid out, not what is computed; a run may go on with other values.
    checkpoint_every: int  #: steps
    keep_last: int  #: checkpoints that are kept, from the newest on
    keep_every: int  #: steps between checkpoints that are kept for good, a multiple of checkpoint_every; 0 for none
    workers: int  #: processes that read audio ahead of the model, per training process
    resident: bool  #: all audio is decoded at the start, into the memory of every process's device
    accumulate: int  #: parts that a process's share of a batch goes through the model in
    strategy: str  #: among several processes: "ddp", or "fsdp", which shares out the weights, too
    activation_checkpointing: bool  #: recompute the blocks in the backward pass: less memory, more time
    compile: bool  #: torch.compile

    def __post_init__(self) -> None:
        _choice("precision", self.precision, PRECISIONS)
        _choice("optimiser", self.optimiser, OPTIMISERS)
        _choice("strategy", self.strategy, STRATEGIES)
        for name in ("steps", "batch_size", "checkpoint_every", "keep_last", "accumulate"):
            if getattr(self, name) < 1:
                raise HearMwmaeError(f"recipe: {name} must be above 0, got {getattr(self, name)}")
        for name in ("base_learning_rate", "base_muon_learning_rate", "weight_decay", "clip_gradient"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise HearMwmaeError(f"recipe: {name} must be a finite number of at least 0, got {getattr(self, name)}")
        if not 0 <= self.semitones <= 12:
            raise HearMwmaeError(f"recipe: semitones must lie between 0 and 12, got {self.semitones}")
        if not 0 < self.data_fraction <= 1:
            raise HearMwmaeError(f"recipe: data_fraction must lie above 0 and not above 1, got {self.data_fraction}")
        if not 0 <= self.seed < 1 << 32:
            raise HearMwmaeError(f"recipe: seed must lie between 0 and 2^32 - 1, got {self.seed}")
        if self.keep_every < 0 or self.keep_every % self.checkpoint_every:
            raise HearMwmaeError(f"recipe: keep_every must be 0 or a multiple of checkpoint_every, got {self.keep_every}")
        if self.workers < 0:
            raise HearMwmaeError(f"recipe: workers must be at least 0, got {self.workers}")
        if self.warmup_steps < 0 or self.decay_steps < 1 or self.warmup_steps + self.decay_steps > self.steps:
            raise HearMwmaeError(
                f"recipe: warmup_steps {self.warmup_steps} and decay_steps {self.decay_steps} must fit into steps, {self.steps}"
            )
        numbers = all(isinstance(share, (int, float)) and not isinstance(share, bool) for share in self.kinds.values())
        # Said this way round, the comparison fails on NaN.
        if self.kinds and not (numbers and min(self.kinds.values()) >= 0 and abs(sum(self.kinds.values()) - 1) <= 1e-6):
            raise HearMwmaeError(f"recipe: kinds must be shares that sum to 1, got {self.kinds}")
        if len(self.patch_size) != 2 or not all(type(size) is int for size in self.patch_size):
            raise HearMwmaeError(f"recipe: patch_size must be [time frames, mel bands], got {self.patch_size}")
        if self.strategy == "fsdp" and self.optimiser == "muon":
            raise HearMwmaeError("recipe: muon works on whole matrices, which fsdp cuts into pieces; take adamw or ddp")
        self.model_config()

    @property
    def learning_rates(self) -> tuple[float, float]:
        """Peak rates of AdamW and of Muon, for this batch size."""
        scale = self.batch_size / BASE_BATCH_SIZE
        return self.base_learning_rate * scale, self.base_muon_learning_rate * scale

    def fingerprint(self) -> str:
        """What must not change in a run that is resumed: where it ends, how often it saves, what it runs on, may."""
        free = {"steps": 1 << 40, "decay_steps": 1, "strategy": "ddp", "accumulate": 1}
        free |= {"checkpoint_every": 1, "keep_last": 1, "keep_every": 0, "workers": 0}
        free |= {"activation_checkpointing": False, "compile": False}
        # The embedded model by its name. Random weights are "", as they were in the recipes of the first checkpoints.
        free |= {"start_from": {"": DEFAULT_MODEL, RANDOM: ""}.get(self.start_from, self.start_from)}
        values = dataclasses.asdict(dataclasses.replace(self, **free))
        del values["resident"]  # the first checkpoints do not name it
        return json.dumps(values, sort_keys=True)

    def model_config(self) -> ModelConfig:
        """The preset with this recipe's departures; raises HearMwmaeError when they are not valid."""
        base = preset(self.preset, tuple(self.patch_size))
        return ModelConfig.from_dict(_merge(base.to_dict(), self.model))

    @classmethod
    def read(cls, path: str | Path, changes: Iterable[str] = ()) -> Recipe:
        """Parse a recipe: a file, or one of the package's by its name, such as ``"mwmae-base-audioset"``.

        ``changes``, such as ``"steps=100"`` or ``"model.decoder.depth=2"``, come on top.

        A file may begin with ``extends``, naming another file (relative to its own folder) or one of the package's recipes, and
        then gives departures only.
        Raises HearMwmaeError on unknown or missing keys and on values of a wrong type.
        """
        values = _read_file(_find(path))
        for change in changes:
            values = _merge(values, _parse_change(change))
        kinds = {field.name: field.type.split("[")[0] for field in dataclasses.fields(cls)}
        unknown, missing = sorted(set(values) - set(kinds)), sorted(set(kinds) - set(values))
        if unknown or missing:
            hint = did_you_mean(unknown[0], kinds) if unknown else ""
            raise HearMwmaeError(f"recipe {path}: unknown keys {unknown}, missing keys {missing}{hint}")
        for name, value in values.items():
            if kinds[name] == "float" and type(value) is int:
                values[name] = value = float(value)
            if type(value).__name__ != kinds[name]:
                raise HearMwmaeError(f"recipe {path}: {name} must be {kinds[name]}, got {value!r}")
        return cls(**values)


def recipe_names() -> list[str]:
    """Recipes that come with the package."""
    return sorted(file.stem for file in RECIPES_DIR.glob("*.toml"))


def _find(name: str | Path, folder: Path = Path()) -> Path:
    """The file ``name``, as seen from ``folder``, or the package's recipe of that name."""
    if (folder / name).is_file():
        return folder / name
    if str(name) in recipe_names():
        return RECIPES_DIR / f"{name}.toml"
    raise HearMwmaeError(
        f"no recipe {folder / name}: it is neither a file nor one of the package's: {', '.join(recipe_names())}"
        f"{did_you_mean(str(name), recipe_names())}"
    )


def _read_file(path: Path, above: tuple[Path, ...] = ()) -> dict:
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise HearMwmaeError(f"cannot read recipe {path}: {error}") from error
    base = values.pop(EXTENDS, None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise HearMwmaeError(f"recipe {path}: {EXTENDS} must name a file, got {base!r}")
    if path.resolve() in above:
        raise HearMwmaeError(f"recipe {path} extends itself, by way of {', '.join(file.name for file in above)}")
    return _merge(_read_file(_find(base, path.parent), (*above, path.resolve())), values)


def _parse_change(text: str) -> dict:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise HearMwmaeError(f"a change of the recipe is key=value, got {text!r}")
    try:
        return tomllib.loads(f"{key} = {value}")
    except tomllib.TOMLDecodeError:
        pass
    try:  # A bare word is a string: the shell has eaten the quotes.
        return tomllib.loads(f'{key} = "{value}"')
    except tomllib.TOMLDecodeError as error:
        raise HearMwmaeError(f"cannot understand {text!r}: {error}") from error


def _choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise HearMwmaeError(f"recipe: {name} must be one of {', '.join(choices)}, got {value!r}")


def _merge(base: dict, changes: dict) -> dict:
    merged = dict(base)
    for key, value in changes.items():
        # "kinds" is one statement, of shares that sum to 1, and is replaced as a whole.
        both = isinstance(value, dict) and isinstance(base.get(key), dict) and key != "kinds"
        merged[key] = _merge(base[key], value) if both else value
    return merged
