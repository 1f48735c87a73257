"""Which values in the masks are which classes, and which are not to be learnt."""
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmparax.datasets.masks.colours import ColourTable
from mmparax.errors import InputError, ParameterError, check_int
from mmparax.utils.problems import ProblemList
from mmparax.utils.text import join_names

IGNORED = 255  # what mmsegmentation's losses and metrics leave out
MAX_CLASSES = 255
MANY = 20  # more values than these are not listed in a remedy
Counts = Sequence[Mapping[int, int]]  # for each mask: value -> number of pixels


@dataclass
class Numbering:
    """What is said about the values, before or after the masks were read.

    Attributes:
        classes: names of the classes, or None: not said.
        values: value of each class, or None: not said.
        ignored: values that are no class.
        colours: what colours stand for, if the masks are pictures of colours.
    """
    classes: list[str] | None
    values: list[int] | None
    ignored: list[int]
    colours: ColourTable | None = None

    def describe(self, value: int) -> str:
        """A value, or the name that the file of colours gives it."""
        names = self.colours.names if self.colours else []
        return repr(names[value]) if value < len(names) else str(value)

    def complete(self, found: set[int]) -> None:
        """Choose names and values that were not given, from the values that the masks hold."""
        if self.values is None and self.classes is None:
            self.values = sorted(found - set(self.ignored))
        elif self.values is None:
            assert self.classes is not None
            self.values = [value for value in range(len(self.classes) + len(self.ignored))
                           if value not in self.ignored][:len(self.classes)]
        if self.classes is None:
            self.classes = [f'class {value}' for value in self.values]


def check_numbering(classes: Sequence[str] | None, values: Sequence[int] | None, ignore: Sequence[int | str] | None,
                    colours: ColourTable | None = None) -> Numbering:
    """Return what the arguments of :func:`mmparax.datasets.masks.examine` say together.

    Raises:
        ParameterError: if they contradict each other.
    """
    given = dict(classes=classes, values=values, ignore=ignore)
    for name, listed in given.items():
        if listed is not None and len(set(listed)) != len(listed):
            raise ParameterError(name, list(listed), 'nothing may be in it twice')
    for value in values or ():
        check_int('values', value, 0)
    for name in ('classes', 'values'):
        if given[name] is not None and not 2 <= len(given[name]) <= MAX_CLASSES:
            raise ParameterError(name, list(given[name]), f'there must be 2 to {MAX_CLASSES} classes, the background among them')
    if classes is not None and values is not None and len(classes) != len(values):
        raise ParameterError('values', list(values), f'there are {len(classes)} classes, and each has one value')
    if colours is not None:
        classes, values = _number_colours(classes, values, colours)
    names = [] if classes is None else list(classes)
    numbers: list[int] = []
    for each in ignore or ():
        if isinstance(each, str):
            numbers.append(_find_value(each, names, values, ignore, colours))
        elif colours is not None:
            raise ParameterError('ignore', each, 'a colour is ignored by its name',
                                 f'{colours.path!r} may have a name behind each colour.')
        else:
            numbers.append(check_int('ignore', each, 0))
    if ignore is None:
        numbers = [IGNORED] if colours is None and IGNORED not in (values or ()) else []
    by_name = [each for each in ignore or () if isinstance(each, str)]
    kept = [index for index, name in enumerate(names) if name not in by_name]
    if by_name:
        values = list(range(len(names))) if values is None else list(values)
        names, values = [names[index] for index in kept], [values[index] for index in kept]
        if len(names) < 2:
            raise ParameterError('ignore', list(ignore or ()), f'{len(names)} class(es) would be left, and there must be two')
    both = sorted(set(numbers) & set(values or ()))
    if both:
        raise ParameterError('ignore', numbers, f'{both[0]} is the value of a class')
    if len(set(numbers)) != len(numbers):
        raise ParameterError('ignore', list(ignore or ()), 'nothing may be in it twice')
    return Numbering(None if classes is None else names, None if values is None else list(values), numbers, colours)


def check_values(counts: Counts, masks: Sequence[str], numbering: Numbering, said: Sequence[str], problems: ProblemList) -> None:
    """Add every value that is neither a class nor ignored to the problems, and say so if the masks hold one class alone.

    Args:
        counts: of the masks.
        masks: their names.
        numbering: complete.
        said: which of ``classes`` and ``values`` the user gave.
        problems: gets what is wrong.
    """
    values, ignored = numbering.values, numbering.ignored
    assert values is not None
    pixels: Counter[int] = Counter()
    number: Counter[int] = Counter()
    first: dict[int, str] = {}
    for name, each in zip(masks, counts):
        for value, count in each.items():
            pixels[value] += count
            number[value] += 1
            first.setdefault(value, name)
    total = max(sum(pixels.values()), 1)
    strange = sorted(set(pixels) - {*values, *ignored})
    hint = _suggest_values(set(pixels), numbering, said)
    if strange:
        kind = (f'values in the masks that are no class (classes: {join_names(map(numbering.describe, values))}; ignored: '
                f'{join_names(map(numbering.describe, ignored)) or "none"})')
        names = numbering.colours.names if numbering.colours else []
        kept = [value for value in ignored if value != IGNORED or value in pixels]
        proposed: list[int | str] = [names[value] if names else value for value in (*kept, *strange)]
        which, them = ('it a name', 'it') if len(strange) == 1 else ('each a name', 'them')
        remedy = hint or (f'Give {which}, or leave {them} out: ignore={proposed!r}.'
                          if len(strange) <= MANY else 'So many are no class numbers, or those of another data set.')
        for value in strange:
            problems.add(
                kind, f'{numbering.describe(value)} in {number[value]} mask(s), {_format_share(pixels[value] / total)} of '
                f'all pixels: {first[value]}' + (', ...' if number[value] > 1 else ''), remedy)
    seen = [value for value in values if value in pixels]
    if pixels and not strange and len(seen) < 2:
        share = _format_share(sum(pixels[value] for value in ignored) / total)
        only = f'the class {numbering.describe(seen[0])} alone' if seen else 'no class'
        which = join_names(numbering.describe(value) for value in ignored if value in pixels)
        problems.add('data sets that hold ' + only, f'{share} of all pixels are ignored' + (f' (value {which})' if which else ''),
                     hint or 'There is nothing to tell apart: training needs two classes.')


def _suggest_values(found: set[int], numbering: Numbering, said: Sequence[str]) -> str:
    """A sentence on which ``values`` would fit, if it can be known."""
    if 'values' in said or numbering.colours is not None:
        return ''
    given = sorted(found if numbering.ignored == [IGNORED] else found - set(numbering.ignored))
    count = len(numbering.classes or ()) if 'classes' in said else len(given)
    if len(given) != count and IGNORED in given and numbering.ignored == [IGNORED]:
        given.remove(IGNORED)
    if 2 <= len(given) == count <= 20 and given != numbering.values:
        return f'If these are the classes, say which values they have: values={given!r}.'
    return ''


def _number_colours(classes: Sequence[str] | None, values: Sequence[int] | None,
                    colours: ColourTable) -> tuple[list[str], list[int]]:
    """Names and values of the classes that a file of colours has."""
    if values is not None:
        raise ParameterError('values', list(values), 'colours have no values', f'Their order is that of {colours.path!r}.')
    names = colours.names
    if not names:
        if classes is None:
            raise InputError(f'{colours.path!r} has {colours.count} colours without names: write a name behind each, or give the '
                             'names in their order as the classes.')
        if len(classes) != colours.count:
            raise ParameterError('classes', list(classes), f'{colours.path!r} has {colours.count} colours, and each has one name')
        return list(classes), list(range(colours.count))
    if classes is None:
        return list(names), list(range(len(names)))
    unknown = [name for name in classes if name not in names]
    if unknown:
        raise ParameterError('classes', unknown, f'{colours.path!r} has the names {join_names(names, 40)}')
    return list(classes), [names.index(name) for name in classes]


def _find_value(name: str, names: Sequence[str], values: Sequence[int] | None, ignore: Sequence[int | str] | None,
                colours: ColourTable | None) -> int:
    """Value of a class that is to be ignored."""
    if colours is not None and colours.names:
        names, values = colours.names, None
    if name not in names:
        known = f'the names are {join_names(names, 40)}' if names else 'no names are given'
        raise ParameterError('ignore', name, f'it is neither a number nor the name of a class; {known}',
                             '' if names or colours else 'Name all values, or ignore the number.')
    index = names.index(name)
    return index if values is None else list(values)[index]


def _format_share(share: float) -> str:
    return f'{share:.2%}' if share >= 1e-4 else 'under 0.01%'


def check_count(values: Sequence[int], masks: str) -> None:
    """Raise InputError if there are more values than classes can be."""
    if len(values) > MAX_CLASSES:
        raise InputError(f'the masks in {masks!r} hold {len(values)} different values, and there can be at most '
                         f'{MAX_CLASSES} classes: they seem to be no class numbers.')
