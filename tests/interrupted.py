"""Runs of the command that end in the middle: `python interrupted.py KILLS SEED embed …`, in
processes that are forked before torch has any threads, since starting Python takes longer than what
is to be interrupted.

Each is ended by SIGKILL at a random one of the first events after its start (a sync, a move, a call
of the model); then one is left to its end. For every clip that goes through the model, a line goes
to stdout.
"""

import os
import random
import signal
import sys
from collections.abc import Iterable, Iterator

import torch

from hear_mwmae.cli import main
from hear_mwmae.embedder import Embedder
from hear_mwmae.embedding import run as runs
from hear_mwmae.encoder import Encoder

#: A run is killed at one of this many events. A part takes three.
EVENTS = 5


def small(setattr=setattr) -> None:
    """Small parts, so that there are many."""
    setattr(runs, "GROUP_FILES", 16)


class Events:
    """Ends its own process, or the command by Ctrl-C, at event number ``last``."""

    def __init__(self, last: int, ctrl_c: bool = False) -> None:
        self.left, self.ctrl_c = last, ctrl_c

    def watch(self, holder: object, name: str, setattr=setattr) -> None:
        function = getattr(holder, name)

        def watched(*args: object, **options: object) -> object:
            self.left -= 1
            if not self.left:
                if self.ctrl_c:
                    raise KeyboardInterrupt
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **options)

        setattr(holder, name, watched)

    def watch_all(self, setattr=setattr) -> None:
        self.watch(os, "fsync", setattr)
        self.watch(os, "replace", setattr)
        self.watch(Encoder, "forward_features", setattr)


def run(arguments: list[str], events: int | None) -> bool:
    """Whether the command came to its end, in a process of its own."""
    if not (child := os.fork()):
        time_steps = Embedder.time_steps

        def counted(self: Embedder, clips: Iterable[torch.Tensor]) -> Iterator:
            for found in time_steps(self, clips):
                os.write(1, b"clip\n")
                yield found

        Embedder.time_steps = counted
        if events:
            Events(events).watch_all()
        try:
            main(arguments, standalone_mode=False)
        finally:
            os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status == 0


if __name__ == "__main__":
    kills, seed, *arguments = sys.argv[1:]
    torch.set_num_threads(1)
    small()
    chance = random.Random(int(seed))
    for _ in range(int(kills)):
        assert not run(arguments, chance.randint(1, EVENTS)), "it was to be killed"
    assert run(arguments, None)
