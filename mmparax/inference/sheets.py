"""Sheets of pictures with titles, captions and a legend, drawn pixel by pixel: letters keep their size."""
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from mmparax.inference.labels import Color

MARGIN, GAP = 20, 10  # pixels around the sheet and between pictures
TITLE, HEADING, TEXT = 22, 17, 15  # pixels of the letters
INK, GREY, PAPER = (20, 20, 20), (90, 90, 90), (255, 255, 255)
# On white; blue and vermilion differ for colour-blind readers, too.
RIGHT_INK, WRONG_INK = (0, 92, 150), (190, 70, 0)


@dataclass(frozen=True)
class LegendEntry:
    """A colour and what it means, ``dashed`` for an outline; a text alone without a colour."""
    text: str
    color: Sequence[int] | None = None
    dashed: bool = False


@dataclass(frozen=True)
class Label:
    """An image with its predicted class."""
    image: np.ndarray
    truth: str
    prediction: str
    score: float


def draw_sheet(path: Path, columns: Sequence[str], rows: Sequence[Sequence[np.ndarray]], captions: Sequence[str], title: str,
               subtitle: str, legends: Sequence[Sequence[LegendEntry]]) -> None:
    """Draw rows of pictures below the titles of their columns.

    Args:
        path: PNG file to write.
        columns: titles.
        rows: pictures (h, w, 3) uint8 of one size.
        captions: text below the last picture of each row.
        title, subtitle: above them.
        legends: lines of the legend; one that is too long is broken.
    """
    height, width = rows[0][0].shape[:2]
    total = len(columns) * (width + GAP) - GAP + 2 * MARGIN
    lines = [line for legend in legends for line in _break_legend(legend, total - 2 * MARGIN)]
    step, head = height + TEXT + 2 * GAP, MARGIN + TITLE + TEXT + HEADING + 4 * GAP
    sheet = Image.new('RGB', (total, head + step * len(rows) + 26 * len(lines) + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    _write_head(pen, total, title, subtitle)
    for number, column in enumerate(columns):
        pen.text((MARGIN + number * (width + GAP) + width / 2, head - GAP / 2), column, INK, load_font(HEADING, True), 'ms')
    for number, (row, caption) in enumerate(zip(rows, captions)):
        top = head + number * step + GAP // 2
        for place, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (MARGIN + place * (width + GAP), top))
        half = max(load_font(TEXT).getlength(caption), width) / 2  # a long one reaches to the left
        pen.text((total - MARGIN - half, top + height + 4), caption, INK, load_font(TEXT), 'ma')
    for number, line in enumerate(lines):
        _draw_legend(pen, line, total, head + step * len(rows) + 26 * number + GAP)
    sheet.save(path)


def draw_label_sheet(path: Path, labels: Sequence[Label], title: str, subtitle: str, columns: int = 8) -> None:
    """Draw a sheet of images, each with its predicted class: with a tick if it is right, else with a cross and the true one.

    Args:
        path: PNG file to write.
        labels: what to draw.
        title, subtitle: above them.
        columns: images a line.
    """
    side, edge = 144, 5
    step, lines = side + 2 * TEXT + 3 * GAP, -(-len(labels) // columns)
    total, head = columns * (side + GAP) - GAP + 2 * MARGIN, MARGIN + TITLE + TEXT + 4 * GAP
    sheet = Image.new('RGB', (total, head + step * lines + 36), PAPER)
    pen = ImageDraw.Draw(sheet)
    _write_head(pen, total, title, subtitle)
    for number, label in enumerate(labels):
        line, column = divmod(number, columns)
        left, top = MARGIN + column * (side + GAP), head + line * step
        right = label.truth == label.prediction
        color = RIGHT_INK if right else WRONG_INK
        pen.rectangle([left, top, left + side - 1, top + side - 1], fill=color)
        inner = side - 2 * edge
        image = cv2.resize(label.image, (inner, inner), interpolation=cv2.INTER_CUBIC)
        sheet.paste(Image.fromarray(image), (left + edge, top + edge))
        text = f'{"✓" if right else "✗"} {label.prediction} {label.score:.0%}'
        pen.text((left, top + side + 3), text, color, load_font(TEXT, True))
        if not right:
            pen.text((left, top + side + TEXT + 8), f'    is {label.truth}', INK, load_font(TEXT))
    entries = [
        LegendEntry('✓ right, with its probability', RIGHT_INK),
        LegendEntry('✗ wrong, with the true class below', WRONG_INK)
    ]
    _draw_legend(pen, entries, total, head + step * lines)
    sheet.save(path)


@functools.cache
def load_font(size: int, bold: bool = False) -> Any:
    """DejaVu Sans, which has ticks and crosses."""
    return ImageFont.truetype(str(Path(get_data_path()) / 'fonts' / 'ttf' / f'DejaVuSans{"-Bold" * bold}.ttf'), size)


def _write_head(pen: ImageDraw.ImageDraw, width: int, title: str, subtitle: str) -> None:
    pen.text((width / 2, MARGIN), title, INK, load_font(TITLE, True), 'ma')
    pen.text((width / 2, MARGIN + TITLE + GAP), subtitle, GREY, load_font(TEXT), 'ma')


def _measure(entry: LegendEntry) -> int:
    return 34 * (entry.color is not None) + round(load_font(TEXT).getlength(entry.text)) + 20


def _break_legend(entries: Sequence[LegendEntry], width: int) -> list[list[LegendEntry]]:
    lines: list[list[LegendEntry]] = [[]]
    for entry in entries:
        if lines[-1] and sum(map(_measure, [*lines[-1], entry])) > width:
            lines.append([])
        lines[-1].append(entry)
    return lines


def _draw_legend(pen: ImageDraw.ImageDraw, entries: Sequence[LegendEntry], width: int, top: int) -> None:
    """Draw one line in the middle."""
    left = (width - sum(map(_measure, entries)) + 20) // 2
    for entry in entries:
        box = (left, top + 2, left + 26, top + 18)
        if entry.color is not None:
            pen.rectangle(box, (110, 110, 110) if entry.dashed else tuple(entry.color), GREY)
        if entry.color is not None and entry.dashed:
            _draw_dashes(pen, box, tuple(entry.color))
        pen.text((left + 34 * (entry.color is not None), top + 10), entry.text, INK, load_font(TEXT), 'lm')
        left += _measure(entry)


def _draw_dashes(pen: ImageDraw.ImageDraw, box: tuple[int, int, int, int], color: Color | tuple[int, ...]) -> None:
    left, top, right, bottom = box
    for x in range(left, right, 8):
        for y in (top, bottom):
            pen.line([x, y, min(x + 4, right), y], color, 2)
    for y in range(top, bottom, 8):
        for x in (left, right):
            pen.line([x, y, x, min(y + 4, bottom)], color, 2)
