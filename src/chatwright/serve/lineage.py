"""Where a served model came from: model -> run -> data, read from the manifests its run left beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chatwright.core.files import hash_of, read_json, sha256_of

MANIFEST = "manifest.json"


def describe(model: str | Path, name: str) -> dict[str, Any]:
    """A model as a row of the store: fingerprint, run, stage, and the hashes of all data it learned from.

    `model` is a run's `STAGE/model`, any other model folder, or the address of another server. A folder that
    no run made is known by its configuration and the size and time of its files (hashing gigabytes of weights
    at every start would take minutes).
    """
    folder = Path(model)
    manifest = _manifest(folder)
    row = {"name": name, "folder": str(folder.resolve() if folder.is_dir() else model)}
    if manifest is None:
        mark = _mark(folder) if folder.is_dir() else hash_of(str(model))
        return {**row, "fingerprint": mark, "run": None, "stage": None, "lineage": {"inputs": {}, "data": {}}}
    about = folder.resolve().parent.parent / MANIFEST
    run = read_json(about).get("name") if about.is_file() else None
    lineage: dict[str, dict[str, str]] = {"inputs": {}, "data": {}}
    _follow(folder.resolve().parent, manifest, lineage)
    return {
        **row,
        "fingerprint": manifest["fingerprint"],
        "run": run,
        "stage": manifest["stage"],
        "lineage": lineage,
    }


def _manifest(folder: Path) -> dict[str, Any] | None:
    path = folder.resolve().parent / MANIFEST
    found = read_json(path) if folder.is_dir() and path.is_file() else {}
    return found if "fingerprint" in found and "stage" in found else None


def _follow(stage: Path, manifest: Mapping[str, Any], lineage: dict[str, dict[str, str]]) -> None:
    """Collect a stage's data and those of the stages it builds on."""
    for source, content in (manifest.get("sources") or {}).items():
        lineage["data"][f"{manifest['stage']}/{source}"] = str(content)
    for name in manifest.get("inputs") or ():
        path = stage.parent / name / MANIFEST
        if name in lineage["inputs"] or not path.is_file():
            continue
        before = read_json(path)
        lineage["inputs"][name] = str(before.get("fingerprint"))
        _follow(path.parent, before, lineage)


def _mark(folder: Path) -> str:
    config = folder / "config.json"
    files = sorted(path for path in folder.iterdir() if path.is_file())
    stats = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    return hash_of([sha256_of(config) if config.is_file() else "", stats])
