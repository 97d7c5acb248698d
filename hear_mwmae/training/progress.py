"""The progress of a run: a log, TensorBoard, pictures of reconstructions, and linear probes.

Nothing here moves torch's random generator or changes the model: a watched run ends with the
weights of any other.
"""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import image, scalar
from torch import Tensor, nn
from tqdm import tqdm

from ..config import ModelConfig
from ..embedder import Embedder
from ..errors import HearMwmaeError
from ..files import naming, replacing
from ..mae import reconstruction
from ..probe import metric, probe
from ..tasks import Task

#: Clips in the picture, and the seed of their masks.
PICTURED, MASK_SEED = 4, 0
PANELS = ("masked input", "reconstruction", "target")
#: Columns of log.csv, a row per update: its number from 0, the loss before it, the factor on the
#: rates, and the unreadable clips and seconds of the run so far.
LOG_FIELDS = ("step", "loss", "rate", "bad_clips", "seconds")
#: Columns of probes.csv: updates before the probe, task, and what was measured of it.
PROBE_FIELDS = ("step", "task", "metric", "score")


class Progress:
    """Writes ``log.csv``, ``tensorboard/``, ``pictures/step-N.png`` and ``probes.csv`` below a run;
    the first process only.

    Args:
        span: the steps that the run begins or goes on at, and ends at.
        every: steps between pictures and probes, which also come at the end; 0 for none.
        clips: (B, input_frames, n_mels) spectrograms for the pictures; None where there are to be
            none.
        tasks: those to probe.
    """

    def __init__(
        self,
        run_dir: Path,
        config: ModelConfig,
        span: tuple[int, int],
        every: int,
        clips: Tensor | None,
        tasks: tuple[Task, ...],
        writes: bool,
    ) -> None:
        self.run_dir, self.config, self.every = run_dir, config, every
        first, self.last = span
        self.tasks, self.writes = tasks, writes
        self.clips = clips
        if clips is not None:
            noise = torch.rand(len(clips), config.num_tokens, generator=torch.Generator().manual_seed(MASK_SEED))
            self.noise = noise.to(clips.device)
        if writes:
            # Rows after the checkpoint will be written again. A row of the log precedes its update;
            # a row of probes follows it.
            self.log = StepTable(run_dir / "log.csv", LOG_FIELDS, first)
            self.probes = StepTable(run_dir / "probes.csv", PROBE_FIELDS, first + 1) if tasks else None
            self.board = Board(run_dir / "tensorboard", first + 1)

    def step(self, step: int, loss: float, rate: float, bad_clips: int, seconds: float) -> None:
        """Log update ``step``; see LOG_FIELDS."""
        if self.writes:
            self.log.write(step, f"{loss:.6f}", f"{rate:.6f}", bad_clips, f"{seconds:.1f}")
            for name, value in (("loss", loss), ("rate", rate), ("bad_clips", bad_clips)):
                self.board.scalar(name, value, step + 1)

    def is_due(self, step: int) -> bool:
        """Whether a look is due after ``step`` updates."""
        return bool(self.every) and (step % self.every == 0 or step == self.last)

    @torch.no_grad()
    def look(self, step: int, model: nn.Module) -> None:
        """A picture, and a probe of every task, after ``step`` updates, if due; every process has
        to call it.
        """
        if self.clips is None or not self.is_due(step):
            return
        model.eval()
        panels = reconstruction(self.config, model, self.clips, self.noise)
        if self.writes:
            picture = draw([panel.float().cpu().numpy() for panel in panels])
            folder = self.run_dir / "pictures"
            folder.mkdir(exist_ok=True)
            with replacing(folder / f"step-{step:06d}.png") as temporary:
                _write_png(temporary, picture)
            self.board.image("reconstruction", picture, step)
            if self.probes:
                self._probe(step, model, self.probes)
        model.train()

    def _probe(self, step: int, model: nn.Module, probes: StepTable) -> None:
        with torch.random.fork_rng(devices=[]):
            embedder = Embedder(self.config).to(self.noise.device)
        embedder.encoder.load_state_dict(model.get_submodule("encoder").state_dict())
        for task in self.tasks:
            if [str(step), task.folder.name] in (row[:2] for row in probes.kept):
                continue  # probed before the run was stopped
            try:
                score = float(np.mean(probe(task, embedder)))
            except HearMwmaeError as error:  # an unreadable task does not end a run of days
                tqdm.write(f"no probe of {task.folder.name} after step {step}: {error}", sys.stderr)
                continue
            self.board.scalar(f"probe/{task.folder.name}", score, step)
            probes.write(step, task.folder.name, metric(task), f"{score:.4f}")

    def flush(self) -> None:
        """Write everything to disk, together with a checkpoint."""
        if self.writes:
            self.board.flush()

    def close(self) -> None:
        if self.writes:
            self.log.close()
            self.board.close()
            if self.probes:
                self.probes.close()


class StepTable:
    """A CSV whose first column is a step.

    Rows of ``first`` and later steps are dropped, because a resumed run writes them again.

    Raises HearMwmaeError when there is one of other columns.
    """

    def __init__(self, path: Path, fields: tuple[str, ...], first: int) -> None:
        self.kept: list[list[str]] = []
        if path.is_file():
            with open(path, newline="") as stream:
                try:
                    header, *rows = list(csv.reader(stream)) or [[]]
                except (csv.Error, UnicodeDecodeError) as error:
                    raise HearMwmaeError(f"{path} is no CSV ({error}): move it away") from error
            if header != list(fields):
                raise HearMwmaeError(f"{path} has other columns than {','.join(fields)}: move it away")
            # The last row may be truncated, if the run was killed while it was written.
            self.kept = [row for row in rows if len(row) == len(fields) and row[0].isdecimal() and int(row[0]) < first]
        with replacing(path) as temporary, open(temporary, "w", newline="") as stream:
            csv.writer(stream).writerows([fields, *self.kept])
        self.path = path
        self.stream = open(path, "a", newline="", buffering=1)  # noqa: SIM115 - open as long as the run
        self.writer = csv.writer(self.stream)

    def write(self, *values: object) -> None:
        with naming(self.path):
            self.writer.writerow(values)

    def close(self) -> None:
        self.stream.close()


class Board:
    """TensorBoard's event file, written in the calling thread, so that a full disk raises OSError.

    tensorboardX's SummaryWriter hands events to a thread through a short queue; once that thread
    has failed, the queue fills up and the run stands still.
    """

    def __init__(self, folder: Path, first: int) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.writer = EventsWriter(str(folder / "events"))
        # Makes TensorBoard drop the steps of a killed run that are written again.
        self._write(Event(session_log=SessionLog(status=SessionLog.START)), first)

    def scalar(self, name: str, value: float, step: int) -> None:
        self._write(Event(summary=scalar(name, value)), step)

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        """``picture`` is (height, width, 3) uint8."""
        self._write(Event(summary=image(name, picture, dataformats="HWC")), step)

    def _write(self, event: Event, step: int) -> None:
        event.step, event.wall_time = step, time.time()
        with naming(self.folder):
            self.writer.write_event(event)

    def flush(self) -> None:
        with naming(self.folder):
            self.writer.flush()

    def close(self) -> None:
        self.writer.close()


def draw(panels: list[np.ndarray]) -> np.ndarray:
    """Panels of (B, frames, mels) -> a picture (height, width, 3) uint8, a row per clip."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = len(panels[0])
    figure = Figure(figsize=(12, 0.6 + 1.6 * rows), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(rows, len(panels), squeeze=False)
    for row in range(rows):
        low, high = panels[-1][row].min(), panels[-1][row].max()
        for column, (title, panel) in enumerate(zip(PANELS, panels, strict=True)):
            axis = axes[row, column]
            axis.imshow(
                panel[row].T, origin="lower", aspect="auto", vmin=low, vmax=high, extent=(0, len(panel[row]) / 100, 0, 80)
            )
            axis.set_facecolor("0.85")
            axis.set_title(title if row == 0 else "")
            axis.set_xlabel("seconds" if row == rows - 1 else "")
            axis.set_ylabel("mel band" if column == 0 else "")
            axis.label_outer()
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def _write_png(path: Path, picture: np.ndarray) -> None:
    from matplotlib.image import imsave

    imsave(path, picture, format="png")
