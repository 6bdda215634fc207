"""Start a command again as several processes on this machine, through PyTorch's own launcher."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from rich.console import Console

from chatwright.core.interrupt import StopFlag


def launch(processes: int, restarts: int, console: Console, arguments: Sequence[str] | None = None) -> int:
    """Run this very command line as so many ranks; returns the exit status of the whole.

    A rank that dies ends the others. With `restarts` all start again, each time with a meeting place of their
    own (ranks of one launcher could find addresses of dead ones), and go on from the last checkpoint.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment = {"OMP_NUM_THREADS": str(max(1, cores // processes)), **os.environ}
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        "--nproc-per-node", str(processes), "--max-restarts", "0",
        "-m", "chatwright", *_without(given, ("--nproc", "--max-restarts")),
    ]  # fmt: skip
    with StopFlag().listening() as stop:
        for again in range(restarts + 1):
            work = subprocess.Popen(command, env=environment)
            status = _waited(work, stop)
            if status == 0 or stop.asked:
                break
            if again < restarts:
                console.print(
                    f"a process died; going on from the last checkpoint ({again + 1} of {restarts})"
                )
    return 130 if stop.asked else status


def _waited(work: subprocess.Popen[bytes], stop: StopFlag) -> int:
    """The launcher's exit status; a request to stop is passed on, and the ranks save and end."""
    passed = False
    while True:
        try:
            return work.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            if stop.asked and not passed:
                work.terminate()
                passed = True


def _without(arguments: Sequence[str], options: Sequence[str]) -> list[str]:
    """The arguments less these options and their values."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in options:
            skip = True
        elif not argument.startswith(tuple(f"{option}=" for option in options)):
            kept.append(argument)
    return kept
