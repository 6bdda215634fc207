"""Start a command again as several processes on this machine, through PyTorch's own launcher."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence


def launch(processes: int, restarts: int, arguments: Sequence[str] | None = None) -> int:
    """Run this very command line as so many ranks; returns the exit status of the whole.

    A rank that dies ends the others; with `restarts` all start again, and the run goes on from its last
    checkpoint.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment = {"OMP_NUM_THREADS": str(max(1, cores // processes)), **os.environ}
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        "--nproc-per-node", str(processes), "--max-restarts", str(restarts),
        "-m", "chatwright", *_without(given, ("--nproc", "--max-restarts")),
    ]  # fmt: skip
    work = subprocess.Popen(command, env=environment)
    while True:
        try:
            return work.wait()
        except KeyboardInterrupt:
            continue  # the ranks got it too: they save and stop


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
