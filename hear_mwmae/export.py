"""Exports a model, from waveform to embeddings, as an ONNX file for other runtimes."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ._version import __version__
from .config import parse_pooling
from .embedder import Embedder, chunked
from .errors import HearMwmaeError, needs_extra
from .files import check_folder_of, replacing
from .frontend import LogMel, normalise, reflect_index
from .pooling import count_time_steps, pool, time_step_ms

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
        self.train(model.training)

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


@needs_extra("onnx", "exporting to .onnx")
@torch.no_grad()
def export(model: Embedder, path: str | Path) -> None:
    """Write a model to an .onnx file at ``path``, atomically, for onnxruntime and others.

    It takes (clips, samples) float32 audio of any number and length, and computes the outputs of
    `ExportableEmbedder`. The configuration is in its metadata, as ``config``.

    Raises:
        HearMwmaeError: another suffix; no such folder; a package is missing; the model is not on
            the CPU, in bfloat16 or above 2 GiB.
    """
    import onnxscript  # noqa: F401

    path = Path(path)
    if path.suffix != ".onnx":
        raise HearMwmaeError(f"an exported model must end in .onnx, got {path}")
    weights = model.encoder.pos_embed
    if weights.device.type != "cpu" or weights.dtype != torch.float32:
        raise HearMwmaeError(
            "a model is exported in float32 from the CPU, "
            f"got one in {weights.dtype} on {weights.device}"
        )
    size = sum(value.numel() * value.element_size() for value in model.encoder.parameters())
    if size > ONNX_BYTES:
        raise HearMwmaeError(
            f"{size / 1e9:.1f} GB of weights are more than an .onnx file holds, 2 GiB"
        )
    check_folder_of(path)
    module = ExportableEmbedder(model)
    example = torch.rand(3, 150000, dtype=torch.float32, device="cpu")
    module(example[:1, :1])  # fills the attention's cache, where tracing would leave no values
    made = torch.onnx.export(
        module,
        (example,),
        input_names=[INPUT],
        output_names=list(OUTPUTS),
        dynamic_shapes={INPUT: {0: "clips", 1: "samples"}},
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    assert made is not None  # it is for dynamo=True only
    config = json.dumps(model.config.to_dict())
    made.model.metadata_props.update(config=config, producer=f"hear_mwmae {__version__}")
    with replacing(path) as temporary:
        made.save(temporary, external_data=False)


@torch.no_grad()
def largest_difference(model: Embedder, path: str | Path) -> float:
    """Largest difference between the embeddings of the file at ``path`` and the model's, over noise
    of `CHECKED` sizes.

    ModuleNotFoundError if onnxruntime is missing.
    """
    run = open_exported(path)
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for shape in CHECKED:
        audio = torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu") * 2 - 1
        expected = model(audio), *model(audio, timestamps=True)
        for ours, theirs in zip(expected, run(audio), strict=True):
            if ours.shape != theirs.shape:
                return float("inf")
            largest = max(largest, float((ours - theirs).abs().nan_to_num(float("inf")).max()))
    return largest


def open_exported(path: str | Path, threads: int = 0) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """A function (clips, samples) -> three outputs that runs an exported file in onnxruntime, with
    a number of threads, 0 = all.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda audio: tuple(map(torch.from_numpy, session.run(None, {INPUT: audio.numpy()})))
