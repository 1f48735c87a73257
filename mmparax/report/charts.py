"""The charts of the report. A group of runs has the same colour and line style in all of them."""
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmparax.backbones.parameters import LABELS, ParameterCount
from mmparax.report.groups import RunGroup
from mmparax.report.svg import pick_role_color, pick_series_color, render_svg, use_page_style
from mmparax.utils.tables import format_mean_and_spread

SIZE = (4.3, 2.8)  # inches; text stays readable on a phone, which is about as wide
LABELS_DOWN, LABELS_ACROSS = 40, 24  # of a matrix, at most
DASHES = ('-', (0, (5, 2)), (0, (1.2, 1.4)), (0, (6, 1.6, 1.2, 1.6)), (0, (9, 2)))
Points = tuple[Sequence[float], Sequence[float]]


def pick_dash(number: int) -> object:
    """Pick the line style of a group, which tells it from others without colours."""
    return DASHES[number % len(DASHES)]


def average_curves(curves: Sequence[Points]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average several curves.

    Returns:
        tuple: the steps that all curves have, mean, and sample standard deviation.
    """
    shared = sorted(set.intersection(*(set(steps) for steps, _ in curves)))
    values = np.array([[dict(zip(*curve))[step] for step in shared] for curve in curves])
    return np.array(shared), values.mean(0), values.std(0, ddof=1) if len(curves) > 1 else np.zeros(len(shared))


def draw_curves_chart(name: str, curves: Mapping[int, Sequence[Points]], x_label: str, y_label: str, alt: str) -> Markup:
    """Draw curves over a training; of several seeds the mean, a band of one standard deviation, and each seed as a thin line.

    Args:
        name: unique on the page.
        curves: number of a group -> a curve for each of its runs.
        x_label, y_label: of the axes.
        alt: what it shows, in words.
    """
    with use_page_style():
        figure = Figure(figsize=SIZE, layout='constrained')
        axis = figure.subplots()
        for number, found in curves.items():
            color = pick_series_color(number)
            marker = 'o' if max(len(steps) for steps, _ in found) < 3 else None
            steps, mean, deviation = average_curves(found)
            if len(found) > 1:
                for points in found:
                    axis.plot(*points, color=color, linewidth=0.6, alpha=0.55, marker=marker, markersize=2.5)
                axis.fill_between(steps, mean - deviation, mean + deviation, color=color, alpha=0.15, linewidth=0)
            axis.plot(steps, mean, color=color, linewidth=1.7, linestyle=pick_dash(number), marker=marker, markersize=5)
        axis.set_xlabel(x_label)
        axis.set_ylabel(y_label)
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        return render_svg(figure, name, alt)


def draw_values_chart(name: str, groups: Sequence[RunGroup], values: Mapping[int, Sequence[float]], x_label: str,
                      alt: str) -> Markup:
    """Draw a dot for each run and a tick at their median, a line for each group.

    Args:
        name: unique on the page.
        groups: one for each line.
        values: number of a group -> its values.
        x_label: of the axis, which begins at 0.
        alt: what it shows, in words.
    """
    with use_page_style():
        figure = Figure(figsize=(SIZE[0], 0.6 + 0.42 * len(groups)), layout='constrained')
        axis = figure.subplots()
        for place, group in enumerate(groups):
            found, color = values[group.number], pick_series_color(group.number)
            median = statistics.median(found)
            axis.plot([0, median], [place] * 2, color=color, linewidth=5, alpha=0.25, solid_capstyle='butt')
            axis.plot([median], [place], color=color, marker='|', markersize=14, markeredgewidth=2.2)
            axis.plot(found, [place] * len(found), color=color, marker='o', markersize=4.5, linestyle='none', alpha=0.85)
        axis.set_xlim(left=0)
        _name_lines(axis, [group.label for group in groups])
        axis.set_xlabel(x_label)
        return render_svg(figure, name, alt)


def _name_lines(axis: Any, labels: Sequence[str]) -> None:
    """Put horizontal lines below each other, each with its name above it: in front of it a phone has no room."""
    axis.set_yticks(range(len(labels)), [''] * len(labels))
    axis.tick_params(axis='y', length=0)
    axis.set_ylim(len(labels) - 0.5, -0.8)
    axis.grid(axis='y', visible=False)
    axis.spines['left'].set_visible(False)
    for place, label in enumerate(labels):
        axis.annotate(label, (0, place), (0, 8), xycoords=('axes fraction', 'data'), textcoords='offset points', va='bottom',
                      fontsize=9)


def draw_parameters_chart(name: str, counts: Sequence[tuple[str, ParameterCount]], roles: Sequence[str], alt: str) -> Markup:
    """Draw stacked bars: the parameters of each model by their role.

    Args:
        name: unique on the page.
        counts: (label, count) of each bar.
        roles: names of the groups of parameters, in the order of the stack; their colours are by their place in LABELS.
        alt: what it shows, in words.
    """
    with use_page_style():
        figure = Figure(figsize=(SIZE[0], 0.6 + 0.5 * len(counts)), layout='constrained')
        axis = figure.subplots()
        for place, (_, count) in enumerate(counts):
            left = 0.
            for role in roles:
                width = getattr(count, role).parameters / 1e6
                axis.barh(place, width, 0.36, left, color=pick_role_color(list(LABELS).index(role)))
                left += width
        _name_lines(axis, [label for label, _ in counts])
        axis.set_xlabel('parameters, millions')
        return render_svg(figure, name, alt)


def draw_matrix_chart(name: str, values: np.ndarray, rows: Sequence[str], columns: Sequence[str], norm: Normalize, colors: str,
                      x_label: str, y_label: str, alt: str, square: bool = False) -> Markup:
    """Draw a matrix as coloured cells; nan stays empty.

    Args:
        name: unique on the page.
        values: (rows, columns).
        rows, columns: their names; of many, not all are written.
        norm, colors: the colour scale and the name of its colours.
        x_label, y_label: of the axes.
        alt: what it shows, in words.
        square: whether the cells are.
    """
    width = SIZE[0]
    height = width if square else 0.75 + 0.19 * len(rows)
    with use_page_style():
        figure = Figure(figsize=(width, height), layout='constrained')
        axis = figure.subplots()
        axis.grid(visible=False)
        axis.imshow(np.ma.masked_invalid(values), norm=norm, cmap=colors, aspect='equal' if square else 'auto',
                    interpolation='nearest')
        for names, set_ticks, most in ((rows, axis.set_yticks, LABELS_DOWN), (columns, axis.set_xticks, LABELS_ACROSS)):
            shown = range(0, len(names), -(-len(names) // most))
            long = names is columns and max(map(len, names)) > 3
            set_ticks(list(shown), [names[place] for place in shown], **(dict(rotation=90) if long else {}))
        axis.set_xlabel(x_label)
        axis.set_ylabel(y_label)
        return render_svg(figure, name, alt)


def draw_color_bar(name: str, norm: Normalize, colors: str, label: str) -> Markup:
    """Draw the colour scale of some matrices."""
    with use_page_style():
        figure = Figure(figsize=(SIZE[0], 0.75), layout='constrained')
        bar = Colorbar(figure.subplots(), ScalarMappable(norm, colors), orientation='horizontal')
        bar.outline.set_visible(False)
        bar.set_label(label)
        return render_svg(figure, name, f'Colours of {label}, from {norm.vmin:.3g} to {norm.vmax:.3g}.')


def describe_curves(what: str, groups: Sequence[RunGroup], ends: Mapping[int, Sequence[float]], digits: int) -> str:
    """Describe a chart of curves in words: where the curves of each group end."""
    parts = [f'{group.label} {format_mean_and_spread(ends[group.number], digits)}' for group in groups if ends.get(group.number)]
    return f'{what}; at the end: {"; ".join(parts)}.'
