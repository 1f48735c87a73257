"""What the template lays out: sections of sentences, tables, figures, galleries and commands."""
from dataclasses import dataclass, field
from typing import Any, List, Optional, Sequence, Union

from markupsafe import Markup

NONE = '–'


@dataclass
class Cell:
    """A field of a table.

    Attributes:
        text: what is in it.
        best: whether it is the best of its column.
        number: of the group of runs whose colour and line style stand before the text.
    """
    text: str
    best: bool = False
    number: Optional[int] = None


@dataclass
class Table:
    """A table; the first field of each row is its name.

    Attributes:
        caption: what it shows.
        header: of the columns; those from the second on hold numbers unless ``prose``.
        rows: their fields.
        prose: whether the fields hold text, set to the left.
    """
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Union[Cell, str]]]
    prose: bool = False
    kind: str = 'table'


@dataclass
class Key:
    """An entry of a figure's key: a line style of a group of runs, or a colour of a kind of parameters."""
    label: str
    number: int
    kind: str = 'series'


@dataclass
class Figure:
    """A drawing with its caption and, if it has colours, their key."""
    content: Markup
    caption: str
    keys: Sequence[Key] = ()


@dataclass
class Figures:
    """Figures side by side where there is room."""
    figures: Sequence[Figure]
    kind: str = 'figures'


@dataclass
class Picture:
    """An image file inside the page.

    Attributes:
        uri: ``data:`` URI.
        alt: what it shows.
        caption: below it.
        crisp: whether its pixels stay squares when it is enlarged.
    """
    uri: str
    alt: str
    caption: str = ''
    crisp: bool = False
    number: Optional[int] = None


@dataclass
class Pictures:
    """Pictures side by side, as many as there is room for."""
    caption: str
    pictures: Sequence[Picture]
    kind: str = 'pictures'


@dataclass
class Grid:
    """Rows of pictures or words, the columns of which belong together.

    Attributes:
        caption: what it shows.
        header: of the columns, the one of the names included.
        rows: a name, then pictures or texts.
    """
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    kind: str = 'grid'


@dataclass
class Legend:
    """Names and colours, as '#rrggbb'."""
    caption: str
    entries: Sequence[Any]
    kind: str = 'legend'


@dataclass
class Text:
    """A paragraph."""
    text: str
    kind: str = 'text'


@dataclass
class Heading:
    """Of a part of a section."""
    text: str
    kind: str = 'heading'


@dataclass
class Notes:
    """A list of sentences."""
    notes: Sequence[str]
    kind: str = 'notes'


@dataclass
class Missing:
    """A sentence on what is not there, and the command that makes it."""
    text: str
    command: str = ''
    kind: str = 'missing'


@dataclass
class Section:
    """A part of the page with a heading."""
    name: str
    title: str
    blocks: List[Any] = field(default_factory=list)


def series_keys(groups: Sequence[Any]) -> List[Key]:
    """The key of some groups of runs."""
    return [Key(group.label, group.number) for group in groups]
