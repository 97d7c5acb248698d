"""A recipe: a small TOML file that describes a pretraining run."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Field

from ..config import ModelConfig, configuration, preset
from ..errors import HearMwmaeError
from ..files import write_text
from ..mae import describe
from ..weights import DEFAULT_MODEL

#: The batch that base rates are given for.
BASE_BATCH_SIZE = 256
#: Pooling of a trained model, as of the embedded one.
POOLING = "mean+std+max"
#: `start_from` for random weights.
RANDOM = "random"
RECIPES_DIR = Path(__file__).with_name("recipes")
#: Fields that a resumed run may change: its end, its checkpoints, the layout of the computation.
FREE = (
    "steps",
    "decay_ratio",
    "checkpoint_every",
    "keep_every",
    "workers",
    "resident",
    "accumulate",
    "strategy",
    "activation_checkpointing",
    "compile",
)

Count = Annotated[int, Field(gt=0)]
WholeNumber = Annotated[int, Field(ge=0)]
#: A finite number of at least 0.
Amount = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


@configuration
class Recipe:
    """Everything that decides the weights, except the audio itself.

    Fields are the keys of the file; defaults are the paper's.
    """

    preset: str  #: a model of the paper, see `hear_mwmae.config.preset_names`
    steps: Count  #: updates
    #: [time frames, mel bands]; the decoder's windows follow from it by the paper's rule
    patch_size: Annotated[list[Count], Field(min_length=2, max_length=2)] = field(
        default_factory=lambda: [4, 16]
    )
    #: departures from the preset, nested like config.json
    model: dict[str, Any] = field(default_factory=dict)
    #: "random" weights, or those of a model, as `load_model` takes it ("" is the embedded one)
    start_from: str = RANDOM
    #: Shares of the crops by kind, which sum to 1. Empty, or for data of one kind: epochs.
    kinds: dict[str, Amount] = field(default_factory=dict)
    #: part of the clips that is used, chosen by the seed
    data_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    warmup_ratio: Share = 0.1  #: part of the steps in which the rates rise from 0, linearly
    decay_ratio: Share = 0.9  #: part of the steps of the final cosine to 0; constant before it
    batch_size: Count = 1024  #: crops per update, over all processes and accumulated parts
    #: "muon" takes the hidden matrices, and AdamW the rest
    optimizer: Literal["adamw", "muon"] = "adamw"
    #: AdamW's peak rate for a batch of 256; the rate is proportional to batch_size
    base_learning_rate: Amount = 1.5e-5
    #: Muon's, scaled to AdamW's update size; not the paper's
    base_muon_learning_rate: Amount = 8e-3
    weight_decay: Amount = 0.05
    #: of the forward pass, by autocast; "auto" is float32 on a CPU and bfloat16 elsewhere
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    checkpoint_every: Count = 1000  #: steps
    #: steps between models that are written to RUN/model-STEP; 0: the finished one only
    keep_every: WholeNumber = 0
    workers: WholeNumber = 1  #: processes that read audio ahead, per training process
    #: All audio is decoded at the start, into the memory of every process's device.
    resident: bool = False
    accumulate: Count = 1  #: parts that a process's share of a batch goes through the model in
    #: among several processes; "fsdp" also distributes the weights
    strategy: Literal["ddp", "fsdp"] = "ddp"
    #: recompute the blocks in the backward pass: less memory, more time
    activation_checkpointing: bool = False
    compile: bool = False  #: torch.compile

    def __post_init__(self) -> None:
        if self.kinds and abs(sum(self.kinds.values()) - 1) > 1e-6:
            raise HearMwmaeError(f"kinds should be shares that sum to 1, got {self.kinds}")
        if self.warmup_ratio + self.decay_ratio > 1 + 1e-6:
            raise HearMwmaeError(
                f"warmup_ratio {self.warmup_ratio} and decay_ratio {self.decay_ratio} "
                "should sum to at most 1"
            )
        if self.optimizer == "muon" and self.strategy == "fsdp":
            raise HearMwmaeError(
                "muon works on whole matrices, which fsdp cuts into pieces; take adamw or ddp"
            )
        self.model_config()

    @property
    def warmup_steps(self) -> int:
        """Steps of the warm-up."""
        return round(self.warmup_ratio * self.steps)

    @property
    def learning_rates(self) -> tuple[float, float]:
        """Peak rates of AdamW and of Muon, for this batch size."""
        scale = self.batch_size / BASE_BATCH_SIZE
        return self.base_learning_rate * scale, self.base_muon_learning_rate * scale

    def identity(self) -> dict[str, Any]:
        """What must not change in a resumed run: the architecture, and all fields but `FREE`."""
        decides = dataclasses.asdict(self)
        for name in (*FREE, "preset", "patch_size"):
            del decides[name]
        decides["model"] = self.model_config().to_dict()
        del decides["model"]["pooling"]
        decides["start_from"] = self.start_from or DEFAULT_MODEL
        return decides

    def model_config(self) -> ModelConfig:
        """The preset with the embedded model's pooling and this recipe's departures; HearMwmaeError
        if they are not valid.
        """
        patch_size = self.patch_size[0], self.patch_size[1]
        decoder = self.model.get("decoder")
        if isinstance(decoder, dict) and "window_sizes" in decoder:
            # Not every number of patches has windows to derive.
            base = preset(self.preset).to_dict() | {"patch_size": list(patch_size)}
        else:
            base = preset(self.preset, patch_size).to_dict()
        return ModelConfig.from_dict(_merge(base | {"pooling": POOLING}, self.model))

    def describe(self) -> Iterator[tuple[str, str]]:
        """(what, value) lines: shapes, parameters, steps."""
        yield from describe(self.model_config()).items()
        decay = round(self.decay_ratio * self.steps)
        crops = self.steps * self.batch_size
        parts = f"{self.warmup_steps:,} of warm-up, {decay:,} of decay"
        yield "steps", f"{self.steps:,} of {self.batch_size} crops ({crops:,}), {parts}"
        adamw, muon = self.learning_rates
        rates = {"adamw": f"AdamW {adamw:g}", "muon": f"AdamW {adamw:g}, Muon {muon:g}"}
        yield "peak rates", rates[self.optimizer]
        yield "precision", self.precision

    @classmethod
    def read(cls, path: str | Path, changes: Iterable[str] = ()) -> Recipe:
        """Parse a recipe: a file, or one of the package's by its name, such as ``"tiny"``.

        ``changes``, such as ``"steps=100"`` or ``"model.decoder.depth=2"``, come on top. Raises
        HearMwmaeError on unknown or missing keys and on values of a wrong type.
        """
        file = _find(path)
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise HearMwmaeError(f"cannot read recipe {file}: {error}") from error
        for change in changes:
            values = _merge(values, _parse_change(change))
        try:
            return cls(**values)
        except HearMwmaeError as error:
            raise HearMwmaeError(f"recipe {path}: {error}") from error

    def write(self, path: Path) -> None:
        """Write every field to a file that `read` takes, atomically."""
        write_text(path, tomli_w.dumps(dataclasses.asdict(self)))


def _find(name: str | Path) -> Path:
    """The file ``name``, or the package's recipe of that name."""
    if Path(name).is_file():
        return Path(name)
    names = sorted(file.stem for file in RECIPES_DIR.glob("*.toml"))
    if str(name) in names:
        return RECIPES_DIR / f"{name}.toml"
    raise HearMwmaeError(
        f"no recipe {name}: it is neither a file nor one of the package's: {', '.join(names)}"
    )


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
