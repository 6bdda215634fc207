"""Checkpoints that are whole, verified, and few."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from chatwright.core import dist
from chatwright.core.files import PART, atomic_directory, read_json, sha256_of, write_json, writes

logger = logging.getLogger("chatwright")


class Checkpoint(NamedTuple):
    """A verified checkpoint: its folder, how many steps were done, and the JSON state saved with it."""

    directory: Path
    step: int
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of one stage, the last `keep` of them."""

    def __init__(self, directory: Path, keep: int = 2) -> None:
        self.directory, self.keep = directory, keep

    def save(self, step: int, parts: Mapping[str, Callable[[Path], None]], state: Mapping[str, Any]) -> None:
        """Write one beside, sync, rename; then forget the oldest. Each part saves itself into a folder of
        its name; all ranks take part, for state may be spread over them.
        """
        with atomic_directory(self.directory / f"step-{step:08d}") as folder:
            for name, save in parts.items():
                save(folder / name)
            if writes():
                write_json(folder / "state.json", {"step": step, "state": state})
                write_json(folder / "hashes.json", _hashes(folder))
        if writes():
            for old in self._folders()[: -self.keep]:
                shutil.rmtree(old)
        dist.wait()

    def latest(self) -> Checkpoint | None:
        """The newest one that is whole; a damaged one is reported and the one before it is taken."""
        for folder in reversed(self._folders()):
            if (folder / "hashes.json").exists() and read_json(folder / "hashes.json") == _hashes(folder):
                saved = read_json(folder / "state.json")
                return Checkpoint(folder, saved["step"], saved["state"])
            logger.warning("%s is damaged and was passed over", folder)
        return None

    def clear(self) -> None:
        """Delete all: the stage is done and its result is on disk."""
        if writes():
            shutil.rmtree(self.directory, ignore_errors=True)

    def _folders(self) -> list[Path]:
        return sorted(p for p in self.directory.glob("step-*") if p.suffix not in (PART, ".old"))


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "hashes.json")
    return {str(p.relative_to(folder)): sha256_of(p) for p in files}
