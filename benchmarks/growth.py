"""How figures grow with the number of positions: an exponent each, and a plot as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from benchmarks.measure import Row

Series = Mapping[int, float]
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 720, 420, 70, 250, 40, 50
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f")
_PER_SECOND = 1e3  # ms


def gather(rows: Iterable[Row]) -> dict[str, dict[str, dict[int, float]]]:
    """By unit and by what was measured: the value at every size, of what was measured at two sizes or more."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows:
        if row.size is not None and row.value > 0:
            value, unit = (row.value * _PER_SECOND, "ms") if row.unit == "s" else (row.value, row.unit)
            name = f"{row.part}: {row.what.split(',')[0]}"
            found.setdefault(unit, {}).setdefault(name, {})[row.size] = value
    kept = {unit: {name: s for name, s in group.items() if len(s) > 1} for unit, group in found.items()}
    return {unit: group for unit, group in kept.items() if group}


def exponent(series: Series) -> float:
    """k of value ∝ size^k, by least squares over the logarithms."""
    x = [math.log(size) for size in series]
    y = [math.log(value) for value in series.values()]
    middle = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - middle[0]) * (b - middle[1]) for a, b in zip(x, y, strict=True))
    return above / sum((a - middle[0]) ** 2 for a in x)


def write(rows: Sequence[Row], folder: Path) -> list[tuple[Path, dict[str, float]]]:
    """One plot per unit; each with the exponents of what is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    done = []
    for unit, group in gather(rows).items():
        path = folder / f"growth-{unit.replace('/', '-per-').replace('µ', 'u')}.svg"
        path.write_text(plot(unit, group))
        done.append((path, {name: exponent(series) for name, series in group.items()}))
    return done


def plot(unit: str, group: Mapping[str, Series]) -> str:
    """Lines over two logarithmic axes."""
    sizes = sorted({size for series in group.values() for size in series})
    values = [value for series in group.values() for value in series.values()]
    left, right = math.log10(sizes[0]), math.log10(sizes[-1])
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)

    def across(size: float) -> float:
        return _LEFT + (math.log10(size) - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)

    def up(value: float) -> float:
        return _HEIGHT - _BOTTOM - (math.log10(value) - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}">',
        '<g font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="13">{escape(unit)} by positions n; k as in value ∝ n^k</text>',
    ]
    for size in sizes:
        x = across(size)
        parts.append(f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{_HEIGHT - _BOTTOM}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{size:,}</text>')
    for decade in range(low, high + 1):
        y = up(10.0**decade)
        parts.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**decade:g}</text>')
    for number, (name, series) in enumerate(group.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = [(across(size), up(series[size])) for size in sorted(series)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in points]
        y = _TOP + 14 * number
        label = escape(f"{name[:34]} (k = {exponent(series):.2f})")
        parts.append(f'<text x="{_WIDTH - _RIGHT + 8}" y="{y}" fill="{colour}">{label}</text>')
    return "\n".join([*parts, "</g></svg>\n"])
