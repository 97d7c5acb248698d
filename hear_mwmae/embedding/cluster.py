"""Parts as tasks of Ray, in actors that hold the model. Needs the extra ``ray``."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.util import ActorPool

from ..data.sources import Item
from ..embedder import Embedder
from ..errors import HearMwmaeError, reason
from .parts import Failure, embed_part

#: How often Ray repeats a part whose process has ended.
RETRIES = 3


class Worker:
    """The model in a process of Ray, which Ray starts again if it ends."""

    def __init__(self, shared: list[ray.ObjectRef], device: str) -> None:
        self.model: Embedder = ray.get(shared[0]).to(device)

    def embed(
        self, stem: Path, items: Sequence[Item], provenance: dict[str, str]
    ) -> tuple[Path, list[Failure]]:
        """`embed_part`, and which part it is."""
        return stem, embed_part(self.model, stem, items, provenance)


@dataclass(frozen=True)
class Cluster:
    """A cluster of Ray, and what each process takes of it."""

    address: str = ""  #: the running cluster, or a new one on this machine, when empty
    device: str = "cpu"  #: a process takes a GPU unless it is "cpu"
    cpus: int = 1

    def embed(
        self, model: Embedder, groups: Mapping[Path, Sequence[Item]], provenance: dict[str, str]
    ) -> Iterator[tuple[Path, list[Failure]]]:
        """Embed groups of inputs into parts, in processes that share the output's folder.

        Yields:
            Each part that is done, and the failures of `embed_part`.
        """
        if not ray.is_initialized():
            try:
                ray.init(self.address or None, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, ValueError) as error:
                raise HearMwmaeError(f"no cluster of Ray at {self.address!r}: {error}") from error
        gpus = 0 if self.device == "cpu" else 1
        resources = ray.cluster_resources()
        room = int(resources.get("GPU", 0)) if gpus else int(resources["CPU"]) // self.cpus
        if not room:
            raise HearMwmaeError(f"the cluster of Ray has no room for a process: {resources}")
        actor = ray.remote(Worker).options(
            num_cpus=self.cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=RETRIES
        )
        model_ref = ray.put(model)
        actors = [actor.remote([model_ref], self.device) for _ in range(min(room, len(groups)))]
        try:
            yield from ActorPool(actors).map_unordered(
                lambda worker, group: worker.embed.remote(*group, provenance), list(groups.items())
            )
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:
            said = f"Ray: {reason(error)}; the same command resumes the run"
            raise HearMwmaeError(said) from error
