"""The processes that share a run, as torchrun starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ..errors import HearMwmaeError

#: How long a process that is done waits for the others. One that ends breaks its connections: they do not wait for that.
PATIENCE = timedelta(days=30)


@dataclass(frozen=True)
class Ranks:
    """This process, ``rank`` from 0, is one of ``world``."""

    rank: int = 0
    world: int = 1
    group: Any = None  #: of torch.distributed

    def wait(self) -> None:
        """Until all processes are here. HearMwmaeError where one has ended."""
        if self.world == 1:
            return
        import torch.distributed as dist

        try:
            dist.barrier(self.group)
        except RuntimeError as error:
            raise HearMwmaeError("another process of this run has ended; the same command goes on") from error


@contextmanager
def joined() -> Iterator[Ranks]:
    """The processes that the environment speaks of (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT); one where it does not."""
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
