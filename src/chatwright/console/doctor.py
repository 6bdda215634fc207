"""`chatwright doctor`: what this machine has, and what is missing for what."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from pathlib import Path

import psutil
import torch
from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table

from chatwright import __version__

SOLVERS = ("torch", "transformers", "tokenizers", "peft", "datasets", "pyarrow", "safetensors", "pydantic")


def examine(console: Console) -> None:
    """Print versions, devices, memory, disk and extras."""
    console.print(_versions(), _machine(), _extras())


def _versions() -> Table:
    table = Table("package", "version", title="Versions", title_justify="left")
    table.add_row("chatwright", __version__)
    table.add_row("python", platform.python_version())
    for name in SOLVERS:
        table.add_row(name, importlib.metadata.version(name))
    return table


def _machine() -> Table:
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(Path.cwd())
    table = Table("what", "found", title="Machine", title_justify="left")
    table.add_row("system", f"{platform.system()} {platform.release()} {platform.machine()}")
    table.add_row("cores", f"{psutil.cpu_count(logical=False)} ({torch.get_num_threads()} threads in use)")
    table.add_row("memory", f"{memory.available / 2**30:.1f} GiB free of {memory.total / 2**30:.1f}")
    table.add_row("disk here", f"{disk.free / 2**30:.1f} GiB free of {disk.total / 2**30:.1f}")
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        name = torch.cuda.get_device_name(i)
        table.add_row(f"cuda:{i}", f"{name}, {free / 2**30:.1f} GiB free of {total / 2**30:.1f}")
    if not torch.cuda.is_available():
        table.add_row("GPU", "none: everything runs on the CPU")
    return table


def _extras() -> Table:
    """Each extra of the package and the requirements of it that are not installed."""
    about = importlib.metadata.metadata("chatwright")
    requirements = [Requirement(line) for line in importlib.metadata.requires("chatwright") or []]
    table = Table("extra", "state", title="Extras", title_justify="left")
    for extra in about.get_all("Provides-Extra") or []:
        wanted = [r for r in requirements if r.marker and r.marker.evaluate({"extra": extra})]
        missing = [r.name for r in wanted if not _installed(r.name)]
        state = f"missing {', '.join(missing)}: pip install 'chatwright[{extra}]'" if missing else "installed"
        table.add_row(extra, state.replace("[", r"\["))
    return table


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
