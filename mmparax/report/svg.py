"""Renders matplotlib's figures as SVG elements of a page: their colours follow the page, their names are unique."""
import base64
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from xml.etree import ElementTree

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

SERIES = 8  # colours of the style sheet of report.html
# Placeholders for the colours of the page, which differ in the dark and on paper.
INK, LINE = '#010203', '#010204'
SETTINGS = {
    'svg.fonttype': 'none', 'font.size': 10, 'axes.titlesize': 10, 'axes.labelsize': 10, 'xtick.labelsize': 9,
    'ytick.labelsize': 9, 'axes.spines.top': False, 'axes.spines.right': False, 'axes.edgecolor': INK, 'axes.labelcolor': INK,
    'text.color': INK, 'xtick.color': INK, 'ytick.color': INK, 'axes.grid': True, 'grid.color': LINE, 'grid.linewidth': 0.6,
    'axes.axisbelow': True, 'axes.linewidth': 0.6, 'xtick.major.width': 0.6, 'ytick.major.width': 0.6, 'figure.facecolor': 'none',
    'axes.facecolor': 'none', 'savefig.facecolor': 'none'
}
PLACEHOLDERS = re.compile('#0102([0-9a-f]{2})')


def pick_series_color(number: int) -> str:
    """Pick the placeholder colour of a group of runs."""
    return f'#0102{16 + number % SERIES:02x}'


def pick_role_color(number: int) -> str:
    """Pick the placeholder colour of a kind of parameters."""
    return f'#0102{32 + number:02x}'


def _replace_color(match: 're.Match[str]') -> str:
    code = int(match.group(1), 16)
    if code >= 32:
        return f'var(--role-{code - 32})'
    return f'var(--series-{code - 16})' if code >= 16 else 'var(--line)' if code == 4 else 'currentColor'


@contextmanager
def use_page_style() -> Iterator[None]:
    """Give figures that are made and rendered inside the context the look of the page."""
    with matplotlib.rc_context(SETTINGS):
        yield


def render_svg(figure: Figure, name: str, alt: str) -> Markup:
    """Render a figure as an ``<svg>`` element.

    Args:
        figure: made in :func:`use_page_style`.
        name: unique on the page; its parts have names that begin with it.
        alt: what it shows, in words.
    """
    file = io.BytesIO()
    with matplotlib.rc_context({**SETTINGS, 'svg.hashsalt': name}):
        figure.savefig(file, format='svg', metadata={'Date': None})
    root = ElementTree.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            # Metadata names addresses; the rules of a style element would be those of the whole page.
            if child.tag.endswith('}metadata') or child.tag.endswith('}style'):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition('}')[2]
        attributes = {key.rpartition('}')[2]: value for key, value in element.attrib.items()}
        element.attrib.clear()
        for key, value in attributes.items():
            if key == 'id':
                value = f'{name}-{value}'
            elif key == 'href' and value.startswith('#'):
                value = f'#{name}-{value[1:]}'
            elif key != 'href':
                value = re.sub(r'url\(#', f'url(#{name}-', PLACEHOLDERS.sub(_replace_color, value))
                value = re.sub(r"font: ([\d.]+px)[^;]*", r'font-size: \1', value)
            element.set(key, value)
    for key in ('width', 'height', 'version'):
        root.attrib.pop(key, None)
    width = float(root.get('viewBox').split()[2])
    root.attrib.update({'class': 'chart', 'role': 'img', 'aria-label': alt, 'style': f'max-width: {width * 1.9:.0f}px'})
    return Markup(ElementTree.tostring(root, encoding='unicode'))


def make_data_uri(picture: np.ndarray, scale: int = 1, colors: int = 0) -> str:
    """Encode a picture (H, W, 3) uint8 as a ``data:`` URI.

    Args:
        picture: its pixels.
        scale: repeats each pixel so many times in both directions.
        colors: if not 0, the size of a palette: for maps, which have few colours.
    """
    image = Image.fromarray(np.ascontiguousarray(picture).repeat(scale, 0).repeat(scale, 1))
    if colors:
        image = image.quantize(colors, dither=Image.Dither.NONE)
    file = io.BytesIO()
    image.save(file, 'PNG', optimize=True)
    return 'data:image/png;base64,' + base64.b64encode(file.getvalue()).decode()
