"""A recipe: a small TOML file that describes a pretraining run, or changes to another file."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from ..config import ModelConfig, preset
from ..errors import HearMwmaeError, did_you_mean
from ..weights import DEFAULT_MODEL

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: The batch that base rates are given for.
BASE_BATCH_SIZE = 256
EXTENDS = "extends"
#: `start_from` for random weights.
RANDOM = "random"
#: The precision that is measured when a run begins (precision.py).
AUTO: Literal["auto"] = "auto"
RECIPES_DIR = Path(__file__).with_name("recipes")

Count = Annotated[int, Field(gt=0)]
WholeNumber = Annotated[int, Field(ge=0)]
#: A finite number of at least 0.
Amount = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, config=ConfigDict(strict=True, allow_inf_nan=False))
class Recipe:
    """Everything that decides the weights, except the audio itself.

    Fields are the keys of the file; defaults are the paper's.
    """

    preset: str  #: a model of the paper, see `hear_mwmae.config.preset_names`
    steps: Count
    #: [time frames, mel bands]; the decoder's windows follow from it by the paper's rule
    patch_size: list[int] = field(default_factory=lambda: [4, 16])
    model: dict[str, Any] = field(default_factory=dict)  #: departures from the preset, nested like config.json
    start_from: str = RANDOM  #: "random" weights, or those of a model, as `load_model` takes it ("" is the embedded one)
    kinds: dict[str, Amount] = field(default_factory=dict)  #: shares of the crops by kind, which sum to 1; empty: epochs
    data_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0  #: part of the clips that is used, chosen by the seed
    #: Each clip is played slower or faster, by a draw of up to this many semitones either way. 0
    #: changes nothing.
    semitones: Annotated[float, Field(ge=0, le=12)] = 0.0
    warmup_steps: WholeNumber | None = None  #: linear rise from 0; by default a tenth of the steps
    decay_steps: Count | None = None  #: final cosine to 0, by default all the rest; the rate is constant before it
    batch_size: Count = 1024  #: crops per update, over all processes and accumulated parts
    optimiser: Literal["adamw", "muon"] = "adamw"  #: "muon" takes the hidden matrices, and AdamW the rest
    base_learning_rate: Amount = 1.5e-5  #: AdamW's peak rate for a batch of 256; the rate is proportional to batch_size
    base_muon_learning_rate: Amount = 8e-3  #: Muon's, scaled to AdamW's update size; not the paper's
    weight_decay: Amount = 0.05
    clip_gradient: Amount = 0.0  #: largest norm of the whole gradient; 0 does not clip
    precision: Literal["auto", "float32", "bfloat16"] = AUTO  #: of the forward pass, by autocast; "auto" measures which is faster
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    # The fields below change the layout of the computation, not its result; a run may resume with
    # other values.
    checkpoint_every: Count = 1000  #: steps
    keep_last: Count = 2  #: number of newest checkpoints to keep
    keep_every: WholeNumber = 0  #: steps between checkpoints that are kept for good, a multiple of checkpoint_every; 0: none
    workers: WholeNumber = 1  #: processes that read audio ahead of the model, per training process
    resident: bool = False  #: all audio is decoded at the start, into the memory of every process's device
    accumulate: Count = 1  #: parts that a process's share of a batch goes through the model in
    strategy: Literal["ddp", "fsdp"] = "ddp"  #: among several processes; "fsdp" also distributes the weights
    activation_checkpointing: bool = False  #: recompute the blocks in the backward pass: less memory, more time
    compile: bool = False  #: torch.compile

    def __post_init__(self) -> None:
        if self.keep_every % self.checkpoint_every:
            raise HearMwmaeError(f"keep_every should be 0 or a multiple of checkpoint_every, got {self.keep_every}")
        if self.kinds and abs(sum(self.kinds.values()) - 1) > 1e-6:
            raise HearMwmaeError(f"kinds should be shares that sum to 1, got {self.kinds}")
        if len(self.patch_size) != 2:
            raise HearMwmaeError(f"patch_size should be [time frames, mel bands], got {self.patch_size}")
        if self.optimiser == "muon" and self.strategy == "fsdp":
            raise HearMwmaeError("muon works on whole matrices, which fsdp cuts into pieces; take adamw or ddp")
        self.model_config()

    @property
    def warmup_and_decay(self) -> tuple[int, int]:
        """Steps of the warm-up and of the final cosine; both shortened in proportion where
        ``steps`` has no room for them.
        """
        warmup = self.steps // 10 if self.warmup_steps is None else self.warmup_steps
        decay = max(self.steps - warmup, 1) if self.decay_steps is None else self.decay_steps
        if warmup + decay > self.steps:
            warmup = warmup * self.steps // (warmup + decay)
            decay = self.steps - warmup
        return warmup, decay

    @property
    def learning_rates(self) -> tuple[float, float]:
        """Peak rates of AdamW and of Muon, for this batch size."""
        scale = self.batch_size / BASE_BATCH_SIZE
        return self.base_learning_rate * scale, self.base_muon_learning_rate * scale

    def fingerprint(self) -> str:
        """The fields that must not change in a resumed run.

        Its end, its checkpoints and its hardware may change.
        """
        decides = dataclasses.asdict(self) | {"warmup_steps": self.warmup_and_decay[0]}
        # The embedded model by its name. Random weights are "", as they were in the recipes of the
        # first checkpoints.
        decides |= {"start_from": {"": DEFAULT_MODEL, RANDOM: ""}.get(self.start_from, self.start_from)}
        # Constants, because the fingerprints in the first checkpoints have these keys.
        decides |= {"steps": 1 << 40, "decay_steps": 1, "strategy": "ddp", "accumulate": 1}
        decides |= {"checkpoint_every": 1, "keep_last": 1, "keep_every": 0, "workers": 0}
        decides |= {"activation_checkpointing": False, "compile": False}
        del decides["resident"]  # the first checkpoints do not name it
        return json.dumps(decides, sort_keys=True)

    def model_config(self) -> ModelConfig:
        """The preset with this recipe's departures; raises HearMwmaeError when they are
        not valid.
        """
        time, mels = self.patch_size
        decoder = self.model.get("decoder")
        if isinstance(decoder, dict) and "window_sizes" in decoder:  # not every number of patches has windows to derive
            base = preset(self.preset).to_dict() | {"patch_size": [time, mels]}
        else:
            base = preset(self.preset, (time, mels)).to_dict()
        return ModelConfig.from_dict(_merge(base, self.model))

    @classmethod
    def read(cls, path: str | Path, changes: Iterable[str] = ()) -> Recipe:
        """Parse a recipe: a file, or one of the package's by its name, such as
        ``"mwmae-base-audioset"``.

        ``changes``, such as ``"steps=100"`` or ``"model.decoder.depth=2"``, come on top.

        A file may begin with ``extends``, naming another file (relative to its own folder) or one
        of the package's recipes, and then gives departures only.
        Raises HearMwmaeError on unknown or missing keys and on values of a wrong type.
        """
        values = _read_file(_find(path))
        for change in changes:
            values = _merge(values, _parse_change(change))
        known = {field.name: field for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - set(known)):
            raise HearMwmaeError(f"recipe {path}: unknown keys {unknown}{did_you_mean(unknown[0], known)}")
        if missing := sorted({"preset", "steps"} - set(values)):
            raise HearMwmaeError(f"recipe {path}: missing keys {missing}")
        try:
            return cls(**values)
        except ValidationError as error:
            raise HearMwmaeError(f"recipe {path}: {'; '.join(map(_in_words, error.errors()))}") from error


def _in_words(problem: Any) -> str:
    """One of pydantic's problems as "steps should be a valid integer, got 'many'"."""
    if "error" in problem.get("ctx", {}):  # raised by __post_init__
        return str(problem["ctx"]["error"])
    return f"{'.'.join(map(str, problem['loc']))} {problem['msg'].removeprefix('Input ')}, got {problem['input']!r}"


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
    try:  # A bare word is a string: the shell removed the quotes.
        return tomllib.loads(f'{key} = "{value}"')
    except tomllib.TOMLDecodeError as error:
        raise HearMwmaeError(f"cannot understand {text!r}: {error}") from error


def _merge(base: dict, changes: dict) -> dict:
    merged = dict(base)
    for key, value in changes.items():
        # "kinds" is replaced as a whole, because its shares sum to 1.
        both = isinstance(value, dict) and isinstance(base.get(key), dict) and key != "kinds"
        merged[key] = _merge(base[key], value) if both else value
    return merged
