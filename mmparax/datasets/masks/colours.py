"""Which class a colour stands for: files of colours, and masks as colours."""
import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mmparax.errors import InputError, MissingFileError
from mmparax.utils.problems import ProblemList

FORMS = ("lines such as '128 64 128 Road' or 'Road 128 64 128', CSV with a line of headings (name, r, g, b), the labelmap.txt "
         'of CVAT, or JSON ({"Road": [128, 64, 128]}, or a list of {"name": ..., "color": ...})')
_NUMBERS = r'(\d+)[\s,;]+(\d+)[\s,;]+(\d+)'
# Four numbers are refused: which three of them are the colour cannot be known.
_COLOUR_FIRST = re.compile(rf'{_NUMBERS}(?:[\s,;:]+(?!\d+(?:[\s,;]|$))(.*\S))?')
_NAME_FIRST = re.compile(rf'(?!\d+[\s,;:]+\d)(.*[^\s,;:])[\s,;:]+{_NUMBERS}(?::.*)?')


@dataclass
class ColourTable:
    """The colours of a file.

    Attributes:
        path: the file.
        colours: (R, G, B) -> value, a number from 0 in the order of the file; colours of one name share one.
        names: name of each value; empty if the file has none.
    """
    path: str
    colours: dict[tuple[int, int, int], int] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Number of values."""
        return 1 + max(self.colours.values())

    @cached_property
    def _values(self) -> np.ndarray:
        """(2^24,) int16: the value of each colour as a number, or -1."""
        table = np.full(1 << 24, -1, np.int16)
        for (red, green, blue), value in self.colours.items():
            table[red << 16 | green << 8 | blue] = value
        return table

    def find_values(self, picture: np.ndarray) -> tuple[np.ndarray, dict[tuple[int, int, int], int]]:
        """Values of a picture, and the number of pixels of each colour that the file has not.

        Args:
            picture: (H, W, 3) uint8.

        Returns:
            (H, W) int16, -1 where the colour is unknown; and (R, G, B) -> number of pixels, the most frequent first.
        """
        numbers = picture[..., 0].astype(np.int32) << 16 | picture[..., 1].astype(np.int32) << 8 | picture[..., 2]
        values = self._values[numbers]
        strange, counts = np.unique(numbers[values < 0], return_counts=True)
        order = np.argsort(-counts, kind='stable')
        return values, {(int(number) >> 16, int(number) >> 8 & 255, int(number) & 255): int(count)
                        for number, count in zip(strange[order], counts[order])}


def read_colours(path: str | Path) -> ColourTable:
    """Read a file of colours (:data:`FORMS`).

    Raises:
        MissingFileError: if there is none.
        InputError: if it is none, listing every line that is not understood.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding='utf-8-sig')
    except FileNotFoundError:
        raise MissingFileError(f'the file {str(path)!r} of colours does not exist.') from None
    except (OSError, ValueError) as error:
        raise InputError(f'the file {str(path)!r} of colours cannot be read as text: {error}.') from error
    problems = ProblemList()
    entries = list(_read_json(path, text, problems) if text.lstrip()[:1] in ('{', '[') else _read_lines(text, problems))
    table = ColourTable(str(path))
    known: dict[tuple[int, int, int], str] = {}
    for place, name, rgb in entries:
        if max(rgb) > 255:
            problems.add('colours beyond 255', f'{place}: {rgb}')
        elif rgb in known:
            problems.add('colours that are there twice', f'{place}: {rgb}')
        else:
            known[rgb] = name
            if name and name not in table.names:
                table.names.append(name)
            table.colours[rgb] = table.names.index(name) if name else len(table.colours)
    if table.names and '' in known.values():
        problems.add('colours without a name, beside others with one', '', count=sum(not name for name in known.values()))
    if not entries and not problems:
        raise InputError(f'the file {str(path)!r} holds no colours; it may have {FORMS}.')
    problems.raise_errors(f'in the file {str(path)!r} of colours, which may have {FORMS}; nothing was written')
    return table


Entry = tuple[str, str, tuple[int, int, int]]  # where it is in the file, the name or '', the colour


def _read_lines(text: str, problems: ProblemList) -> Iterator[Entry]:
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    headings = _find_headings(lines[0][1]) if lines else None
    for position, (number, line) in enumerate(lines):
        place = f'line {number}'
        if line.startswith(('#', '//')) or (position == 0 and headings):
            continue
        if headings:
            row = dict(zip(headings, (cell.strip() for cell in next(csv.reader([line])))))
            if all(row.get(channel, '').isdecimal() for channel in 'rgb'):
                yield place, row.get('name', ''), _to_rgb([row[channel] for channel in 'rgb'])
                continue
        elif match := _COLOUR_FIRST.fullmatch(line):
            yield place, match[4] or '', _to_rgb(match.groups()[:3])
            continue
        elif match := _NAME_FIRST.fullmatch(line):
            yield place, match[1].strip('"'), _to_rgb(match.groups()[1:])
            continue
        elif position == 0 and not any(character.isdigit() for character in line):
            continue  # headings of another kind
        problems.add('lines that are no colour', f'{place}: {line[:80]}')


def _find_headings(line: str) -> list[str] | None:
    """The columns of a CSV file as ``name``, ``r``, ``g``, ``b``, or None if its first line has no such headings."""
    columns = [cell.strip().lower() for cell in next(csv.reader([line]))]
    short = dict(red='r', green='g', blue='b', label='name', class_name='name', **{'class': 'name', 'classes': 'name'})
    columns = [short.get(column, column) for column in columns]
    return columns if {'r', 'g', 'b'} <= set(columns) else None


def _read_json(path: Path, text: str, problems: ProblemList) -> Iterator[Entry]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InputError(f'the file {str(path)!r} of colours is no JSON: {error}.') from error
    if isinstance(content, dict):
        pairs = list(content.items())
    else:
        pairs = [(entry.get('name', entry.get('label', '')),
                  entry.get('color', entry.get('colour', entry.get('rgb')))) if isinstance(entry, dict) else ('', entry)
                 for entry in content]
    for number, (name, colour) in enumerate(pairs, 1):
        rgb = _parse_colour(colour)
        if rgb is None:
            problems.add('entries that are no colour', f'entry {number}: {name} {colour!r}'[:100])
        else:
            yield f'entry {number}', str(name), rgb


def _parse_colour(colour: Any) -> tuple[int, int, int] | None:
    if isinstance(colour, str) and re.fullmatch(r'#[0-9a-fA-F]{6}', colour):
        return _to_rgb([int(colour[start:start + 2], 16) for start in (1, 3, 5)])
    if isinstance(colour, (list, tuple)) and len(colour) == 3 and all(type(each) is int and each >= 0 for each in colour):
        return _to_rgb(colour)
    return None


def _to_rgb(channels: Any) -> tuple[int, int, int]:
    red, green, blue = map(int, channels)
    return red, green, blue
