"""Commands in separate processes, forked from a process that has imported their modules, because
imports take seconds.

Tests of imports, of memory, of torchrun and of unpacked wheels start Python itself.
"""

import importlib
import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

#: Modules with a `main`. The fork server skips modules that are not installed.
CLI, EVAL = "hear_mwmae.cli", "eval.__main__"
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(
    [
        "hear_mwmae.training.loop",
        EVAL,
        "heareval.embeddings.task_embeddings",
        "heareval.predictions.task_predictions",
    ]
)


class Done(NamedTuple):
    """The result of a process, as subprocess.CompletedProcess has it."""

    returncode: int
    stdout: str
    stderr: str


class Forked:
    """A function in a separate process and process group.

    Its output goes to files, so that no pipe fills up.
    """

    def __init__(
        self, function: Callable, *arguments: object, environment: dict[str, str] | None = None
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._process = FORKSERVER.Process(
            target=_call, args=(Path(self._folder.name), environment or {}, function, arguments)
        )
        self._process.start()
        self.pid = self._process.pid

    def wait(self, timeout: float = 900) -> Done:
        """Its result; a process that is still running after ``timeout`` seconds is killed."""
        self._process.join(timeout)
        self._process.kill()  # nothing to one that has ended
        self._process.join()
        output = (Path(self._folder.name, name).read_text() for name in ("stdout", "stderr"))
        return Done(self._process.exitcode, *output)

    def wait_until(self, condition: Callable[[], bool], timeout: float = 120) -> None:
        """Wait until the condition holds, the process ends or the time is up."""
        deadline = time.monotonic() + timeout
        while not condition() and self._process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)


def start(*arguments: object, main: str = CLI, environment: dict[str, str] | None = None) -> Forked:
    """Start a command."""
    return Forked(
        _command, main, [str(argument) for argument in arguments], environment=environment
    )


def run(*arguments: object, main: str = CLI, environment: dict[str, str] | None = None) -> Done:
    """Run a command to its end."""
    return start(*arguments, main=main, environment=environment).wait()


def run_two(*arguments: object) -> Done:
    """Run a command in two processes, with the environment that torchrun sets.

    Its exit code is not 0 if one of theirs is not.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    group |= {"LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": port, "GROUP_RANK": "0"}
    group |= {"OMP_NUM_THREADS": "1"}
    ranks = [
        start(*arguments, environment={**group, "RANK": rank, "LOCAL_RANK": rank})
        for rank in ("0", "1")
    ]
    codes, outputs, errors = zip(*(rank.wait() for rank in ranks), strict=True)
    return Done(max(codes, key=abs), "".join(outputs), "".join(errors))


def _call(folder: Path, environment: dict[str, str], function: Callable, arguments: tuple) -> None:
    os.setsid()
    for number, name in ((1, "stdout"), (2, "stderr")):
        with open(folder / name, "wb") as file:
            os.dup2(file.fileno(), number)
    os.environ.update(environment)
    # The platform's, as in a process that Python starts.
    multiprocessing.set_start_method(None, force=True)
    code: object = 0
    try:
        function(*arguments)
    except SystemExit as end:
        # Without its traceback, whose frames keep files and worker processes open.
        code = end.code
    sys.exit(code)


def _command(main: str, arguments: list[str]) -> None:
    sys.argv = [main, *arguments]
    importlib.import_module(main).main(arguments)
