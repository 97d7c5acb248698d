"""Parts as tasks of Ray, in actors that hold the model. Needs the extra ``ray``."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import ray
from ray.util import ActorPool

from ..data.sources import Item
from ..embedder import Embedder
from ..errors import HearMwmaeError, reason
from .parts import Failures, embed_part

#: How often Ray repeats a part whose process has ended.
RETRIES = 3


class Worker:
    """The model in a process of Ray, which Ray starts again if it ends."""

    def __init__(self, model: Embedder, device: str) -> None:
        self.model = model.to(device)

    def embed(
        self, file: Path, items: Sequence[Item], provenance: dict[str, str]
    ) -> tuple[Path, Failures]:
        """The part that is done, and the failures of `embed_part`."""
        return file, embed_part(self.model, file, items, provenance)


def embed_parts(
    model: Embedder,
    groups: Mapping[Path, Sequence[Item]],
    provenance: dict[str, str],
    address: str = "",
    device: str = "cpu",
    cpus: int = 1,
) -> Iterator[tuple[Path, Failures]]:
    """Embed groups of inputs into parts, in processes that share the output's folder.

    Args:
        address: of a running cluster; a new one on this machine when empty.
        device: of the processes, each of which takes a GPU unless it is "cpu".
        cpus: that each process takes.

    Yields:
        The parts, as they are done, and the failures of each.
    """
    if not ray.is_initialized():
        try:
            ray.init(address or None, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError) as error:
            raise HearMwmaeError(f"no cluster of Ray at {address!r}: {error}") from error
    gpus = 0 if device == "cpu" else 1
    resources = ray.cluster_resources()
    room = int(resources.get("GPU", 0)) if gpus else int(resources["CPU"]) // cpus
    if not room:
        raise HearMwmaeError(f"the cluster of Ray has no room for a process: {resources}")
    actor = ray.remote(Worker).options(
        num_cpus=cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=RETRIES
    )
    shared = ray.put(model)
    actors = [actor.remote(shared, device) for _ in range(min(room, len(groups)))]
    try:
        yield from ActorPool(actors).map_unordered(
            lambda worker, group: worker.embed.remote(*group, provenance), list(groups.items())
        )
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise HearMwmaeError(f"Ray: {reason(error)}; the same command resumes the run") from error
