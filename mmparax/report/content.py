"""The parts of the page that the template lays out; the template knows each by its ``kind``."""
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

NONE = '–'


@dataclass
class TableField:
    """A field of a table.

    Attributes:
        text: its content.
        best: whether it is the best of its column.
        number: of the group of runs whose colour and line style stand before the text.
    """
    text: str
    best: bool = False
    number: int | None = None


@dataclass
class ReportTable:
    """A table; the first field of each row is its name.

    Attributes:
        caption: what it shows.
        header: of the columns; those from the second on hold numbers unless ``prose``.
        rows: their fields.
        prose: whether the fields hold text, set to the left.
    """
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[TableField | str]]
    prose: bool = False
    kind: str = 'table'


@dataclass
class LegendKey:
    """An entry of a chart's legend: the line style of a group of runs, or the colour of a kind of parameters."""
    label: str
    number: int
    kind: str = 'series'


@dataclass
class Chart:
    """A drawing with its caption and, if it has colours, their legend."""
    content: Markup
    caption: str
    keys: Sequence[LegendKey] = ()


@dataclass
class ChartRow:
    """Charts side by side where there is room."""
    charts: Sequence[Chart]
    kind: str = 'charts'


@dataclass
class Picture:
    """An image file inside the page.

    Attributes:
        uri: ``data:`` URI.
        alt: what it shows.
        caption: below it.
        crisp: whether its pixels stay squares when it is enlarged.
        number: of the group of runs whose colour and line style stand before the caption.
    """
    uri: str
    alt: str
    caption: str = ''
    crisp: bool = False
    number: int | None = None


@dataclass
class PictureRow:
    """Pictures side by side, as many as there is room for."""
    caption: str
    pictures: Sequence[Picture]
    kind: str = 'pictures'


@dataclass
class PictureGrid:
    """Rows of pictures or texts, the columns of which belong together.

    Attributes:
        caption: what it shows.
        header: of the columns, that of the names included.
        rows: a name, then pictures or texts.
    """
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    kind: str = 'grid'


@dataclass
class ColorLegend:
    """Names and colours, as '#rrggbb'."""
    caption: str
    entries: Sequence[Any]
    kind: str = 'legend'


@dataclass
class Paragraph:
    """A paragraph."""
    text: str
    kind: str = 'text'


@dataclass
class Subheading:
    """The heading of a part of a section."""
    text: str
    kind: str = 'heading'


@dataclass
class NoteList:
    """A list of sentences."""
    notes: Sequence[str]
    kind: str = 'notes'


@dataclass
class MissingPart:
    """A sentence on what is not there, and the command that makes it."""
    text: str
    command: str = ''
    kind: str = 'missing'


@dataclass
class ReportSection:
    """A part of the page with a heading."""
    name: str
    title: str
    blocks: list[Any] = field(default_factory=list)


def make_series_keys(groups: Sequence[Any]) -> list[LegendKey]:
    """Make the legend of some groups of runs."""
    return [LegendKey(group.label, group.number) for group in groups]
