"""Exports a model, from waveform to embeddings, for other runtimes: ONNX, or a program of
torch.export.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ._version import __version__
from .config import parse_pooling
from .embedder import Embedder, chunked
from .errors import HearMwmaeError
from .extras import needs_extra
from .files import check_writable, replacing
from .frontend import LogMel, normalise, reflect_index
from .pooling import count_time_steps, pool, time_step_ms

SUFFIXES = (".onnx", ".pt2")
INPUT, OUTPUTS = "audio", ("scene_embeddings", "timestamp_embeddings", "timestamps")
#: Weights in an .onnx file: a protocol buffer holds at most 2 GiB, and the graph takes a few MiB.
ONNX_BYTES = (1 << 31) - (16 << 20)
#: (clips, samples) of the comparison with the model: below one hop, below one chunk, one sample
#: above it, many chunks.
CHECKED = ((1, 1), (2, 159), (3, 641), (1, 16000), (2, 32001), (1, 200000))


class ExportableEmbedder(nn.Module):
    """An `Embedder` as one graph: no checks of the input, no loop over pieces, no branch on values
    or lengths.

    (clips, samples) float32 at the model's rate -> scene embeddings (clips, S), timestamp
    embeddings (clips, T, D) and timestamps (clips, T) in milliseconds, all float32 and equal to the
    `Embedder`'s, whose encoder it shares. NaN or infinity in a clip makes its embeddings NaN. All
    chunks go through the encoder at once, so memory grows with the length.
    """

    def __init__(self, model: Embedder) -> None:
        super().__init__()
        self.config = model.config
        self.timestamps = model.timestamps
        self.windows = nn.ModuleList(ExportableLogMel(window) for window in model.frontend.log_mels)
        self.encoder = model.encoder

    def forward(self, audio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Sizes may be symbols here. Indices of a range stand where slices would do: a slice asks
        # whether its end lies inside.
        parts = [window(audio) for window in self.windows]
        spectrogram = torch.cat(parts, dim=2)
        chunks = chunked(spectrogram, self.config.input_frames)
        features = self.encoder.forward_features(chunks.flatten(0, 1)).float()
        features = features.reshape(audio.shape[0], -1, features.shape[2])
        steps = count_time_steps(self.config, audio.shape[1])
        features = features[:, torch.arange(steps, device=audio.device)]
        times = time_step_ms(self.config, audio.shape[1], self.timestamps)
        timed = features[:, torch.arange(times.shape[0], device=audio.device)]
        return (
            pool([features], parse_pooling(self.config.pooling)),
            timed,
            times.expand(audio.shape[0], -1),
        )


class ExportableLogMel(nn.Module):
    """`LogMel` by a product with a table of sines in float64: (clips, samples) -> (clips, frames,
    n_mels) float32, normalised.

    It is exact where torch's float32 transform rounds. The logarithm of nearly empty bands shows
    the rounding.
    """

    #: (win_length, 2 * (win_length // 2 + 1)) float64: windowed cosines, then windowed sines
    dft: Tensor
    filterbank: Tensor  #: (win_length // 2 + 1, n_mels) float64

    def __init__(self, log_mel: LogMel) -> None:
        super().__init__()
        self.config = log_mel.config
        self.win_length = length = log_mel.win_length
        self.silence_std = log_mel.silence_std
        # Without full turns, so that the angles stay small.
        place = torch.arange(length, device="cpu")
        turns = place[:, None] * place[: length // 2 + 1] % length
        angles = turns.double() * (2 * torch.pi / length)
        table = torch.cat([angles.cos(), angles.sin()], dim=1)
        self.register_buffer("dft", table * log_mel.window.double()[:, None])
        self.register_buffer("filterbank", log_mel.filterbank.double())

    def forward(self, audio: Tensor) -> Tensor:
        samples, length, half = audio.shape[1], self.win_length, self.win_length // 2
        padded = audio[:, reflect_index(samples, -half, samples + length - half, audio.device)]
        frames = torch.arange(self.config.frames(samples), device=audio.device)
        places = frames[:, None] * self.config.hop_length
        pieces = padded[:, places + torch.arange(length, device=audio.device)].double()
        real, imaginary = (pieces @ self.dft).chunk(2, dim=2)
        mel = (real.square() + imaginary.square()) @ self.filterbank
        log_mel = torch.log(mel + self.config.log_offset).float()
        return normalise(log_mel, True, self.silence_std)


def export(model: Embedder, path: str | Path) -> None:
    """Write a model to ``path``, atomically: ``.onnx`` for onnxruntime and others, ``.pt2`` for
    `torch.export.load`.

    Both take (clips, samples) float32 audio of any number and length, and compute the outputs of
    `ExportableEmbedder`. They contain the configuration: ``config`` in the metadata of the .onnx
    file, ``config.json`` in the extra files of the .pt2 file.

    Raises:
        HearMwmaeError: another suffix; a package is missing; the model is not on the CPU; for ONNX,
            it is in bfloat16 or above 2 GiB.
    """
    path = Path(path)
    _check(model, path)
    try:
        check_writable(path)
    except OSError as error:
        raise HearMwmaeError(f"cannot write {path}: {error.strerror}") from error
    module = ExportableEmbedder(model)
    example = torch.rand(3, 150000, dtype=torch.float32, device="cpu")
    config = json.dumps(module.config.to_dict())
    sizes = any_size() if path.suffix == ".pt2" else nullcontext()
    with torch.no_grad(), _quiet(), sizes:
        module(
            example[:1, :1]
        )  # makes the attention's plans, which tracing would keep as tensors without values
        anything = torch.export.Dim.DYNAMIC
        program = torch.export.export(
            module, (example,), dynamic_shapes={INPUT: (anything, anything)}
        )
        if path.suffix == ".pt2":
            with replacing(path) as temporary, open(temporary, "wb") as stream:
                torch.export.save(program, stream, extra_files={"config.json": config})
            return
        made = torch.onnx.export(
            program,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert made is not None  # it is for dynamo=True only
    made.model.metadata_props.update(config=config, producer=f"hear_mwmae {__version__}")
    _name_sizes(made.model.graph)
    with replacing(path) as temporary:
        made.save(temporary, external_data=False)


def any_size() -> AbstractContextManager[None]:
    """A context in which tracing takes no size as special, not even 0 and 1.

    torch's setting for it is private. HearMwmaeError where it is missing: torch.onnx.export, which
    does without, is the public way.
    """
    try:
        from torch.fx.experimental import _config

        return _config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    except (ImportError, AttributeError) as error:
        raise HearMwmaeError(
            f"torch {torch.__version__} cannot make a .pt2 for every length: export to .onnx"
        ) from error


@torch.no_grad()
def largest_difference(model: Embedder, path: str | Path) -> float:
    """Largest difference between the embeddings of the file at ``path`` and the model's, over noise
    of `CHECKED` sizes.

    ImportError if ``path`` is an .onnx file and onnxruntime is missing.
    """
    run, generator, largest = open_exported(path), torch.Generator().manual_seed(0), 0.0
    for shape in CHECKED:
        audio = torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu") * 2 - 1
        expected = model.scene_embeddings(audio), *model.timestamp_embeddings(audio)
        for ours, theirs in zip(expected, run(audio), strict=True):
            if ours.shape != theirs.shape:
                return float("inf")
            largest = max(largest, float((ours - theirs).abs().nan_to_num(float("inf")).max()))
    return largest


def open_exported(path: str | Path, threads: int = 0) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """A function (clips, samples) -> three outputs that runs an exported file; ``threads`` is for
    onnxruntime, 0 = all.
    """
    if Path(path).suffix == ".pt2":
        program = torch.export.load(Path(path)).module()

        def run_program(audio: Tensor) -> tuple[Tensor, ...]:
            with torch.no_grad():
                return program(audio)

        return run_program
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda audio: tuple(map(torch.from_numpy, session.run(None, {INPUT: np.asarray(audio)})))


def _check(model: Embedder, path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise HearMwmaeError(f"an exported model must end in {' or '.join(SUFFIXES)}, got {path}")
    weights = model.encoder.pos_embed
    if weights.device.type != "cpu":
        raise HearMwmaeError(
            f"a model is exported from the CPU, got one on {weights.device}: call model.cpu() first"
        )
    if path.suffix != ".onnx":
        return
    with needs_extra("onnx", "exporting to .onnx"):
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    if weights.dtype != torch.float32:
        raise HearMwmaeError(
            f".onnx files are exported in float32, got a model in {weights.dtype}; "
            ".pt2 takes any precision"
        )
    size = sum(value.numel() * value.element_size() for value in model.encoder.parameters())
    if size > ONNX_BYTES:
        raise HearMwmaeError(
            f"{size / 1e9:.1f} GB of weights are more than an .onnx file holds, 2 GiB: "
            "export to .pt2"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter's messages on packages that are not used, and on operators that it does
    not convert.
    """
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _name_sizes(graph: Any) -> None:
    """Replace the tracer's expressions of variable sizes by readable names."""
    names = {INPUT: {0: "clips", 1: "samples"}, "timestamp_embeddings": {0: "clips", 1: "steps"}}
    names |= {"scene_embeddings": {0: "clips"}, "timestamps": names["timestamp_embeddings"]}
    for value in (*graph.inputs, *graph.outputs):
        for axis, name in names[value.name].items():
            value.shape[axis] = name
