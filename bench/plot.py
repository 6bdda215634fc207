"""python -m bench.plot RESULT.json … --out docs/performance.png: every pair's ratio over its goal."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main() -> None:
    """Read results, draw one line a row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    rows = [
        row for path in a.results for row in json.loads(path.read_text(encoding="utf-8"))["ratios"].items()
    ]
    figure, axes = plt.subplots(figsize=(9, 0.6 * len(rows) + 1.2), layout="constrained")
    for y, (_, row) in enumerate(reversed(rows)):
        axes.plot(row["runs"], [y] * len(row["runs"]), "o", color="tab:blue", alpha=0.5)
        axes.plot(row["median"], y, "|", color="tab:blue", markersize=22, markeredgewidth=3)
        axes.plot(float(row["goal"].split()[1]), y, "|", color="tab:red", markersize=22, markeredgewidth=2)
    axes.set_yticks(range(len(rows)), [f"{name}\nagainst {row['against']}" for name, row in reversed(rows)])
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xscale("log")
    axes.set_xticks((ticks := [0.1, 0.2, 0.5, 1, 2, 3, 5, 8]), [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_formatter("")
    axes.axvline(1, color="grey", linewidth=0.5)
    axes.set_xlabel("ours over theirs: pairs (dots), median (blue), goal (red; for memory, at most)")
    figure.savefig(a.out, dpi=120)


if __name__ == "__main__":
    main()
