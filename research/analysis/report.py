"""`hear-mwmae analyze`: models and clips -> tables, figures and a summary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..checkpoint import to_device
from ..config import ModelConfig
from ..errors import HearMwmaeError
from ..files import write_text
from ..mae import MaskedAutoencoder, reconstruction
from ..patches import patchify
from .clips import read_crops
from .maps import trace
from .measure import COMPARED, DECODING, EMBEDDING, VIEWS, Measured, Settings, View, measure
from .resampling import bootstrap_counts
from .tables import (
    SPREAD_MEASURES,
    Row,
    about,
    comparison_rows,
    csv_text,
    head_rows,
    similarity_rows,
    spread_rows,
    window_comparison_rows,
    window_rows,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Heads in a picture of attention maps.
PICTURED = 8


def analyze(
    sources: dict[str, str], files: Sequence[Path], out: Path, settings: Settings, progress: bool = False
) -> list[Measured]:
    """Measure models over one crop of every file, and write everything to the folder ``out``.

    Args:
        sources: name -> source for `hear_mwmae.load_model`.

    Raises:
        HearMwmaeError: a model or a file cannot be read, or there are fewer clips than a bootstrap
            or samples than CCA needs.
    """
    from . import figures  # only here: measuring needs no matplotlib

    if len(files) < 2:
        raise HearMwmaeError(f"intervals over clips need 2 clips or more, got {len(files)}")
    models = _models(sources, settings)
    if len({_file_name(name) for name, *_ in models}) < len(models):
        raise HearMwmaeError(f"two models have one name in files: {', '.join(name for name, *_ in models)}")
    out.mkdir(parents=True, exist_ok=True)
    counts = bootstrap_counts(len(files), settings.draws, settings.seed)
    measured = []
    for name, trained, model in models:
        clips = read_crops(files, model.config, settings.seed)
        noise = masks(len(clips), model.config, settings.seed)
        found = measure(model, name, trained, clips, noise, counts, settings, progress)
        measured.append(found)
        for view in COMPARED:
            figures.save(figures.similarity_matrix(found, view), out, f"similarity-{view.part}-{_file_name(name)}")
            eventful = _most_eventful(clips, model.config)
            picture = _attention_picture(model, found, view, clips[eventful], noise[eventful])
            figures.save(picture, out, f"attention-{view.part}-{_file_name(name)}")
    for view in VIEWS:
        figures.save(
            figures.heads_over_blocks(measured, view), out, f"heads-{view.part}-{'masked' if view.masked else 'unmasked'}"
        )
    if any(model.similarity[DECODING].by_window for model in measured):
        figures.save(figures.window_effects(measured, DECODING), out, "windows-decoder")
    else:
        for suffix in (".png", ".svg"):
            (out / f"windows-decoder{suffix}").unlink(missing_ok=True)  # of an earlier analysis
    tables = {
        "heads": head_rows(measured, counts),
        "similarity": similarity_rows(measured),
        "windows": window_rows(measured),
        "window-comparisons": window_comparison_rows(measured),
        "spread": spread_rows(measured, counts),
        "comparisons": comparison_rows(measured, counts),
    }
    for name, rows in tables.items():
        if rows:
            write_text(out / f"{name}.csv", csv_text(rows))
        else:
            (out / f"{name}.csv").unlink(missing_ok=True)
    write_text(out / "summary.md", summary(measured, tables, len(files), settings))
    return measured


def masks(clips: int, config: ModelConfig, seed: int) -> Tensor:
    """(clips, tokens) noise; the same for models of as many tokens."""
    return torch.rand(clips, config.num_tokens, generator=torch.Generator().manual_seed(seed))


def _models(sources: dict[str, str], settings: Settings) -> list[tuple[str, bool, MaskedAutoencoder]]:
    """Name, whether it is trained, and the model; after each one an untrained one of its kind,
    unless there is one already.
    """
    models: list[tuple[str, bool, MaskedAutoencoder]] = []
    for name, source in sources.items():
        model = MaskedAutoencoder.from_pretrained(source).eval()
        models.append((name, True, model))
        if settings.untrained and not any(other.config == model.config for _, trained, other in models if not trained):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(settings.seed)
                models.append((f"{name}, untrained", False, MaskedAutoencoder(model.config).eval()))
    for _, _, model in models:
        to_device(model, settings.device)
    return models


def _most_eventful(clips: Tensor, config: ModelConfig) -> slice:
    """The clip whose patches change most from one time step to the next."""
    loudness = patchify(clips, config.patch_size).mean(dim=-1).unflatten(1, config.grid_size)
    chosen = int(loudness.diff(dim=1).abs().flatten(1).median(dim=1).values.argmax())
    return slice(chosen, chosen + 1)


@torch.no_grad()
def _attention_picture(model: MaskedAutoencoder, found: Measured, view: View, clip: Tensor, noise: Tensor) -> Figure:
    """Heads from the shortest to the longest attention distance, evenly chosen by rank; the query
    is a loud patch.
    """
    from . import figures

    config, windows = model.config, found.windows[view.part]
    distances = found.heads(view, "distance")
    ranked = np.argsort(distances, axis=None)
    chosen = ranked[np.linspace(0, len(ranked) - 1, min(PICTURED, len(ranked))).round().astype(int)]
    loudness = patchify(clip, config.patch_size)[0].mean(dim=-1)
    quarter = len(loudness) // 4
    query = quarter + int(loudness[quarter:-quarter].argmax())  # away from both ends
    device = model.encoder.pos_embed.device
    shown = reconstruction(config, model, clip.to(device), noise.to(device))[0].cpu() if view.masked else clip
    cls, maps = int(config.encoder.cls_token), {}
    for traced in trace(model, clip, noise if view.masked else None):
        if traced.part == view.part:
            maps[traced.block] = traced.maps()[0, :, query + cls, cls:].cpu().numpy()
    panels = []
    for number in chosen:
        block, head = divmod(int(number), len(windows))
        what = f"window {figures.window_name(windows[head])}, " if any(windows) else ""
        panels.append((f"block {block + 1}, head {head + 1}: {what}distance {distances[block, head]:.1f}", maps[block][head]))
    hop = config.frontend.hop_length / config.frontend.sample_rate
    return figures.attention_over_spectrogram(shown[0].numpy(), config.grid_size, query, panels, config.input_frames * hop)


def summary(measured: Sequence[Measured], tables: dict[str, list[Row]], clips: int, settings: Settings) -> str:
    """The main numbers as Markdown."""
    tokens = sorted({found.samples for model in measured for found in model.similarity.values()})
    lines = [
        f"{clips} clips, one crop of each; {' or '.join(f'{n:,}' for n in tokens)} tokens for similarities; 95 % intervals of "
        f"{settings.draws} bootstrap draws of the clips; seed {settings.seed}.",
    ]
    for name, unit in zip(SPREAD_MEASURES, ("attention distance, patches", "attention entropy / ln(visible keys)"), strict=True):
        rows = [row for row in tables["spread"] if row["measure"] == name]
        kinds = list(dict.fromkeys(row["spread"] for row in rows))
        body: list[list[object]] = [
            [model.name, str(view), *(_cell(row, "value") for row in rows if about(model, view).items() <= row.items())]
            for view in VIEWS
            for model in measured
        ]
        lines += ["", f"**{unit}**", "", *_markdown(["model", "heads", *map(str, kinds)], body)]
    compared = [row for row in tables["comparisons"] if (row["part"], row["masked"]) == (EMBEDDING.part, EMBEDDING.masked)]
    if compared:
        body = [
            [
                f"{row['model_a']} / {row['model_b']}",
                row["measure"],
                row["spread"],
                _cell(row, "a_minus_b"),
                _cell(row, "a_over_b"),
            ]
            for row in compared
        ]
        lines += ["", "**Encoder heads, unmasked input: pairs of models**", ""]
        lines += _markdown(["a / b", "measure", "of the heads", "a - b", "a / b"], body)
    if tables["windows"]:
        body = [
            [row["model"], row["part"], f"{row['equal']:.3f}", f"{row['unequal']:.3f}", _cell(row, "difference"),
             f"{row['superiority']:.2f}", f"{row['p']:.2g}", f"{row['noise_level']:.3f}"]
            for row in tables["windows"]
        ]  # fmt: skip
        lines += ["", "**PWCCA of heads in different blocks, by their windows**", ""]
        lines += _markdown(["model", "part", "equal", "unequal", "difference", "superiority", "p", "independent noise"], body)
    if tables["window-comparisons"]:
        body = [
            [f"{row['model_a']} - {row['model_b']}", row["part"], _cell(row, "a_minus_b")] for row in tables["window-comparisons"]
        ]
        lines += ["", *_markdown(["models", "part", "difference of the differences"], body)]
    return "\n".join(lines) + "\n"


def _cell(row: Row, name: str) -> str:
    return f"{row[name]:.3g} [{row[f'{name}_low']:.3g}, {row[f'{name}_high']:.3g}]"


def _markdown(head: Sequence[object], rows: Sequence[Sequence[object]]) -> list[str]:
    return [f"| {' | '.join(map(str, cells))} |" for cells in (head, ["---"] * len(head), *rows)]


def _file_name(name: str) -> str:
    """Lower-case letters, digits and hyphens."""
    return "-".join("".join(letter if letter.isalnum() else " " for letter in name.lower()).split())
