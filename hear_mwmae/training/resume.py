"""The checkpoints of a run: atomic writes, and a check that they belong to it."""

import zipfile
from contextlib import nullcontext
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import torch
from lightning_fabric import Fabric

from ..errors import HearMwmaeError, differences, reason
from ..files import replacing
from .dataset import AudioDataset
from .recipe import Recipe

CHECKPOINTS = "checkpoints"
#: Newest checkpoints of a run that are kept.
KEEP_LAST = 2


class Checkpoints:
    """``RUN/checkpoints/step-N.pt``, each the complete state after N updates.

    The newest ones are kept.
    """

    def __init__(
        self, fabric: Fabric, run_dir: Path, recipe: Recipe, dataset: AudioDataset
    ) -> None:
        self.fabric = fabric
        self.run_dir = run_dir
        self.dataset = dataset
        self.identity = {"recipe": recipe.identity(), "data": dataset.identity()}

    def load(self, state: dict) -> None:
        """Fill the entries of ``state`` from the newest checkpoint, if there is one.

        Raises HearMwmaeError when it is damaged, belongs to another run, or is not what the first
        process sees.
        """
        path = newest_checkpoint(self.run_dir)
        name = path.name if path else ""
        if self.fabric.broadcast(name) != name:
            raise HearMwmaeError(
                f"{self.run_dir} is not the same for all processes: they must share its storage"
            )
        if path:
            check_identity(path, self.identity, self.dataset.source)
            self.fabric.load(path, state, weights_only=True)

    def save(self, state: dict) -> None:
        """Write ``state`` atomically, then remove older checkpoints.

        Every process calls this; the first one writes.
        """
        path = self.run_dir / CHECKPOINTS / f"step-{state['step']:08d}.pt"
        first = self.fabric.is_global_zero
        if first:
            path.parent.mkdir(exist_ok=True)
        try:
            with replacing(path) if first else nullcontext(path) as temporary:
                self.fabric.save(temporary, state | {"identity": self.identity})
        except (OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "inline_container" not in str(error):
                raise  # that is torch's writer
            said = f"{path} cannot be written, by way of {gettempdir()}: {reason(error)}"
            raise HearMwmaeError(said) from error
        if first:
            for old in _checkpoints(self.run_dir)[:-KEEP_LAST]:
                old.unlink(missing_ok=True)
        self.fabric.barrier()


def newest_checkpoint(run_dir: Path) -> Path | None:
    """The checkpoint from which a run resumes, or None."""
    return max(_checkpoints(run_dir), default=None)


def check_identity(path: Path, identity: dict[str, Any], data: str) -> None:
    """HearMwmaeError when the checkpoint at ``path`` is damaged, or belongs to a run of another
    recipe or other data.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # torch writes checksums into the archive, and does not verify them.
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} in it has another checksum")
        saved = torch.load(path, weights_only=True, mmap=True)["identity"]
        recipe, data_of_run = saved["recipe"], saved["data"]
    except (OSError, MemoryError):
        raise
    except Exception as error:  # zipfile and torch have many
        raise HearMwmaeError(
            f"{path} is no checkpoint of a run, or damaged; remove it to go on from the one before"
        ) from error
    if changes := differences(recipe, identity["recipe"]):
        listed = ", ".join(f"{key} {before!r} -> {after!r}" for key, before, after in changes)
        raise HearMwmaeError(f"{path} belongs to another recipe: {listed}")
    if data_of_run != identity["data"]:
        raise HearMwmaeError(f"{path} belongs to a run on other data than {data}")


def _checkpoints(run_dir: Path) -> list[Path]:
    return sorted((run_dir / CHECKPOINTS).glob("step-????????.pt"))
