"""The report's pictures, as SVG that takes its text colour from the page."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#3b7dd8", "#e0803a", "#8a93a2"
STYLE = {
    "svg.fonttype": "none",  # text stays text: the browser has fonts for Chinese
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.hashsalt": "chatwright",
}


def curves(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """One small picture a metric, over steps; empty when a metric is in no row."""
    pictures = []
    for name in names:
        points = [(row["step"], row[name]) for row in rows if name in row]
        if len(points) > 1:
            figure, axes = _sheet(2.6, 1.7)
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=BLUE, alpha=0.3 if len(y) > 30 else 1.0, linewidth=1)
            if len(y) > 30:
                axes.plot(x, smoothed(y), color=BLUE, linewidth=1.6)
            axes.set_title(name)
            pictures.append(_svg(figure, f"{name} over steps"))
    return "".join(pictures)


def smoothed(values: Sequence[float], span: int = 15) -> list[float]:
    """An exponential moving average, its start corrected."""
    average, weight, out = 0.0, 0.0, []
    for value in values:
        average, weight = average + (value - average) * 2 / span, weight + (1 - weight) * 2 / span
        out.append(average / weight)
    return out


def distributions(before: Sequence[float], after: Sequence[float], names: Sequence[str], title: str) -> str:
    """Two histograms over each other, in the same bins."""
    figure, axes = _sheet(3.4, 2.1)
    low, high = min(*before, *after), max(*before, *after)
    bins = [low + (high - low) * i / 24 for i in range(25)] if high > low else 1
    for values, name, colour in zip((before, after), names, (GREY, BLUE), strict=True):
        axes.hist(values, bins=bins, alpha=0.6, color=colour, label=name)
    axes.set_title(title)
    axes.legend(frameon=False)
    return _svg(figure, title)


def calibration(curve: Sequence[Sequence[float]]) -> str:
    """How often the reward model is right against how sure it is."""
    figure, axes = _sheet(2.6, 2.1)
    axes.plot([0.5, 1], [0.5, 1], color=GREY, linestyle="--", linewidth=1)
    axes.plot([c for c, _ in curve], [t for _, t in curve], color=BLUE, marker="o", markersize=4)
    axes.set_xlabel("how sure it is")
    axes.set_ylabel("how often it is right")
    axes.set_title("calibration")
    return _svg(figure, "calibration of the reward model")


def kl_against_reward(rows: Sequence[dict[str, Any]]) -> str:
    """What a nat of divergence bought: one point a round, darker later."""
    points = [(row["kl"], row["reward"]) for row in rows if "kl" in row and "reward" in row]
    if len(points) < 2:
        return ""
    figure, axes = _sheet(3.4, 2.1)
    x, y = zip(*points, strict=True)
    axes.scatter(x, y, c=list(range(len(points))), cmap="Blues", s=14, vmin=-len(points) / 2)
    axes.set_xlabel("KL to the start, nats an answer")
    axes.set_ylabel("reward")
    axes.set_title("KL against reward")
    return _svg(figure, "KL against reward")


def bars(names: Sequence[str], values: Sequence[float], title: str) -> str:
    """Horizontal bars with their numbers."""
    figure, axes = _sheet(5.2, 0.32 * len(names) + 0.7)
    drawn = axes.barh(list(names)[::-1], list(values)[::-1], color=BLUE, alpha=0.85)
    axes.bar_label(drawn, fmt="%.1f", padding=3)
    axes.margins(x=0.12)
    axes.set_title(title)
    axes.grid(axis="y", visible=False)
    return _svg(figure, title)


def _sheet(width: float, height: float) -> tuple[Figure, Axes]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.add_subplot()


def _svg(figure: Figure, label: str) -> str:
    """The picture as an element: transparent, black replaced by the page's own text colour."""
    with matplotlib.rc_context(STYLE):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace("#000000", "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<text ", '<text fill="currentColor" ', svg)
    # ids must be unique on a page with many pictures
    mark = f"-{zlib.crc32(svg.encode()):x}"
    svg = re.sub(r'id="([^"]+)"', rf'id="\1{mark}"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#\1{mark})", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#\1{mark}"', svg)
    return f'<figure role="img" aria-label="{label}">{svg}</figure>'
