"""A recipe: one small TOML file that says everything about a pretraining run."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from ..config import ModelConfig, preset

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

PRECISIONS = ("float32", "bfloat16")
OPTIMISERS = ("adamw", "muon")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, but the audio itself. Fields are the keys of the file."""

    preset: str  #: a model of the paper, see `hear_mwmae.config.preset_names`
    model: dict  #: departures from the preset, nested like config.json
    kinds: dict[str, float]  #: share of the crops drawn from each kind of the manifest; must sum to 1
    steps: int
    warmup_steps: int
    decay_steps: int  #: length of the final cosine to 0; the rate is constant before. steps - warmup_steps is the paper's
    batch_size: int
    optimiser: str  #: "adamw" (the paper's), or "muon" on hidden matrices and AdamW on the rest
    learning_rate: float  #: peak rate of AdamW's parameters
    muon_learning_rate: float  #: peak rate of Muon's, scaled to match AdamW's update size; unused with "adamw"
    weight_decay: float
    precision: str  #: of the forward pass, by autocast
    seed: int
    checkpoint_every: int  #: steps

    def __post_init__(self) -> None:
        _choice("precision", self.precision, PRECISIONS)
        _choice("optimiser", self.optimiser, OPTIMISERS)
        for name in ("steps", "batch_size", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"recipe: {name} must be above 0, got {getattr(self, name)}")
        for name in ("learning_rate", "muon_learning_rate", "weight_decay"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"recipe: {name} must be a finite number of at least 0, got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"recipe: seed must be at least 0, got {self.seed}")
        if self.warmup_steps < 0 or self.decay_steps < 1 or self.warmup_steps + self.decay_steps > self.steps:
            raise ValueError(
                f"recipe: warmup_steps {self.warmup_steps} and decay_steps {self.decay_steps} must fit into steps, {self.steps}"
            )
        numbers = all(isinstance(share, (int, float)) and not isinstance(share, bool) for share in self.kinds.values())
        # Said this way round, the comparison fails on NaN.
        if not (self.kinds and numbers and min(self.kinds.values()) >= 0 and abs(sum(self.kinds.values()) - 1) <= 1e-6):
            raise ValueError(f"recipe: kinds must be shares that sum to 1, got {self.kinds}")
        self.model_config()

    def fingerprint(self) -> str:
        """What must not change between the parts of a run; where it ends, and how often it saves, may."""
        fixed = dataclasses.replace(self, steps=1 << 40, decay_steps=1, checkpoint_every=1)
        return repr(fixed)

    def model_config(self) -> ModelConfig:
        """The preset with this recipe's departures; raises ValueError when they are not valid."""
        return ModelConfig.from_dict(_merge(preset(self.preset).to_dict(), self.model))

    @classmethod
    def read(cls, path: str | Path) -> Recipe:
        """Parse a recipe file. Raises ValueError on unknown or missing keys and on values of a wrong type."""
        try:
            values = tomllib.loads(Path(path).read_text())
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ValueError(f"cannot read recipe {path}: {error}") from error
        kinds = {field.name: field.type.split("[")[0] for field in dataclasses.fields(cls)}
        unknown, missing = sorted(set(values) - set(kinds)), sorted(set(kinds) - set(values))
        if unknown or missing:
            raise ValueError(f"recipe {path}: unknown keys {unknown}, missing keys {missing}")
        for name, value in values.items():
            if type(value).__name__ != kinds[name]:
                raise ValueError(f"recipe {path}: {name} must be {kinds[name]}, got {value!r}")
        return cls(**values)


def _choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"recipe: {name} must be one of {', '.join(choices)}, got {value!r}")


def _merge(base: dict, changes: dict) -> dict:
    merged = dict(base)
    for key, value in changes.items():
        merged[key] = _merge(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
    return merged
