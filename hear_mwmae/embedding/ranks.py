"""The processes that share a run, as torchrun starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ..errors import HearMwmaeError

#: How long a finished process waits for the others. A process that ends breaks its connections, so
#: nobody waits for it.
PATIENCE = timedelta(days=30)


@dataclass(frozen=True)
class Ranks:
    """Rank of this process, from 0, and number of processes."""

    rank: int = 0
    world: int = 1
    group: Any = None  #: of torch.distributed

    def wait(self) -> None:
        """Wait for all processes. HearMwmaeError if one has ended."""
        if self.world == 1:
            return
        import torch.distributed as dist

        try:
            dist.barrier(self.group)
        except RuntimeError as error:
            raise HearMwmaeError("another process of this run has ended; the same command resumes the run") from error


@contextmanager
def joined() -> Iterator[Ranks]:
    """The processes of the environment (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT); one without
    these variables.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks()
        return
    import torch.distributed as dist

    try:
        dist.init_process_group("gloo")
    except (ValueError, RuntimeError) as error:
        raise HearMwmaeError(f"the processes of WORLD_SIZE={os.environ['WORLD_SIZE']} cannot be joined: {error}") from error
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), dist.new_group(timeout=PATIENCE, backend="gloo"))
    finally:
        dist.destroy_process_group()
