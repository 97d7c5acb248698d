"""Parts as tasks of Ray, in actors that hold the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.sources import Item
from ..embedder import Embedder
from ..errors import HearMwmaeError
from ..extras import needs
from .parts import Failure, embed_part

#: How often Ray repeats a part whose process has ended.
RETRIES = 3


@dataclass(frozen=True)
class Cluster:
    """A cluster of Ray, and what each of its actors takes."""

    address: str = ""  #: the running cluster, or a new one on this machine, when empty
    device: str = "cpu"  #: an actor takes a GPU unless it is "cpu"
    cpus: int = 1


class Worker:
    """The model in a process of Ray."""

    def __init__(self, model: Embedder, device: str) -> None:
        self.model = model.to(device)

    def embed(
        self, stem: Path, items: Sequence[Item], provenance: dict[str, str]
    ) -> tuple[Path, list[Failure]]:
        """`embed_part`, and which part it is."""
        return stem, embed_part(self.model, stem, items, provenance)


def embed_on_ray(
    cluster: Cluster,
    model: Embedder,
    groups: Mapping[Path, Sequence[Item]],
    provenance: dict[str, str],
) -> Iterator[tuple[Path, list[Failure]]]:
    """Embed groups of inputs into parts, in processes that share the output's folder.

    Yields:
        Each part that is done, and the failures of `embed_part`.
    """
    try:
        import ray
        from ray.util import ActorPool
    except ModuleNotFoundError as error:
        raise needs("--ray", error.name, "ray") from error
    if not ray.is_initialized():
        try:
            ray.init(cluster.address or None, log_to_driver=False, logging_level="error")
        except (ConnectionError, ValueError) as error:
            raise HearMwmaeError(f"no cluster of Ray at {cluster.address!r}: {error}") from error
    gpus = 0 if cluster.device == "cpu" else 1
    resources = ray.cluster_resources()
    room = int(resources.get("GPU", 0)) if gpus else int(resources["CPU"]) // cluster.cpus
    if not room:
        raise HearMwmaeError(f"the cluster of Ray has no room for a process: {resources}")
    actor = ray.remote(Worker).options(
        num_cpus=cluster.cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=RETRIES
    )
    shared = ray.put(model)
    actors = [actor.remote(shared, cluster.device) for _ in range(min(room, len(groups)))]
    try:
        yield from ActorPool(actors).map_unordered(
            lambda worker, group: worker.embed.remote(*group, provenance), groups.items()
        )
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        reason = str(error).splitlines()[0]
        raise HearMwmaeError(f"Ray: {reason}; the same command resumes the run") from error
