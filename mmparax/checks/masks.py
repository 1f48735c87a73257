"""Whether the values of masks are the classes of a data set, read before the loader casts them to 8 bits."""
from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mmparax.checks.images import Loader, describe_error
from mmparax.datasets.masks.numbering import IGNORED
from mmparax.utils.images import LOSSY_ENDINGS
from mmparax.utils.problems import ProblemList
from mmparax.utils.text import join_names

TOOL = 'tools/dataset_tools/prepare_masks.py'
STRANGE = 'masks with values that are no class'
KEPT_ZERO = 'data set with the value 0, which reduce_zero_label=True takes for ignored'
NO_CLASS, ONE_CLASS = 'data set without a pixel of any class', 'data set with only one class beside ignore'
DOUBTS = (KEPT_ZERO, NO_CLASS, ONE_CLASS)  # what other masks of the data set may still refute
SAMPLED = 'Only a sample was read: tools/doctor.py CONFIG --scan all reads all masks.'


@dataclass
class MaskFacts:
    """What one look at a mask found.

    Attributes:
        width: in pixels; None if it cannot be read.
        height: in pixels.
        channels: as the loader gives them; 1 is right.
        equal: whether several channels all hold the same.
        whole: whether all values are whole numbers.
        pixels: number of pixels of each value, as it is stored; of masks of one channel with whole numbers.
        error: why it cannot be read, or ''.
    """
    width: int | None = None
    height: int | None = None
    channels: int = 1
    equal: bool = False
    whole: bool = True
    pixels: dict[int, int] = field(default_factory=dict)
    error: str = ''


def examine_mask(path: str, loader: Loader) -> MaskFacts:
    """Read a mask as the loader does, before its cast to 8 bits; nothing is raised."""
    if not os.path.isfile(path):
        return MaskFacts(error='it does not exist')
    if not os.path.getsize(path):
        return MaskFacts(error='it is empty (0 bytes)')
    try:
        mask = loader.read(path).squeeze()
    except OSError as error:
        return MaskFacts(error=describe_error(error))
    if mask.ndim != 2:
        if mask.ndim < 2:  # one row or column, which squeeze took away
            return MaskFacts(error=f'it is a line of {mask.size} pixel(s)')
        colours = mask[..., :3]
        return MaskFacts(mask.shape[1], mask.shape[0], mask.shape[2], bool((colours == colours[..., :1]).all()))
    height, width = mask.shape
    if mask.dtype.kind == 'f' and not np.array_equal(mask, np.floor(mask)):
        return MaskFacts(width, height, whole=False)
    if mask.dtype == np.uint8:
        counts = np.bincount(mask.ravel())
        found, numbers = counts.nonzero()[0], counts[counts.nonzero()]
    else:
        found, numbers = np.unique(mask.astype(np.int64), return_counts=True)
    return MaskFacts(width, height, pixels=dict(zip(found.tolist(), numbers.tolist())))


@dataclass(frozen=True)
class Labels:
    """What a data set makes of the values in its masks.

    Attributes:
        classes: their names.
        ignored: the values that loss or metric leave out, of those that the loader gives.
        reduce_zero_label: whether the loader takes 0 for ignored and counts all others down by one.
        label_map: what the loader puts in the place of values, or None.
    """
    classes: Sequence[str]
    ignored: frozenset[int] = frozenset({IGNORED})
    reduce_zero_label: bool = False
    label_map: Mapping[int, int] | None = None

    def number(self, value: int) -> int:
        """The number that the loader makes of a stored value of 0 to 255."""
        if self.reduce_zero_label:
            value = IGNORED if value in (0, IGNORED) else value - 1
        return (self.label_map or {}).get(value, value)

    def is_class(self, value: int) -> bool:
        return 0 <= value <= IGNORED and self.number(value) < len(self.classes) and self.number(value) not in self.ignored

    def is_ignored(self, value: int) -> bool:
        return 0 <= value <= IGNORED and self.number(value) in self.ignored

    def describe(self) -> str:
        """Which values are right, in words."""
        values = [value for value in range(IGNORED + 1) if self.is_class(value)]
        ignored = [value for value in range(IGNORED + 1) if self.is_ignored(value) and not (self.label_map and value < IGNORED)]
        return (f'the {len(self.classes)} classes are {_list_ranges(values)}, ignored: {_list_ranges(ignored)}' +
                (', with reduce_zero_label=True' if self.reduce_zero_label else ''))


def _list_ranges(values: Iterable[int]) -> str:
    """Numbers in words, such as ``'0 to 4, 255'``."""
    ranges: list[list[int]] = []
    for value in sorted(values):
        if ranges and value == ranges[-1][1] + 1:
            ranges[-1][1] = value
        else:
            ranges.append([value, value])
    texts = [f'{first}' if first == last else f'{first} to {last}' for first, last in ranges]
    return join_names(texts) or 'none'


def judge_masks(masks: Mapping[str, MaskFacts], labels: Labels, whole: bool, training: bool) -> ProblemList:
    """Judge the values of the masks of a data set.

    Args:
        masks: what was found in each file that could be read.
        labels: what the data set makes of the values.
        whole: whether these are all masks of the data set, not a sample.
        training: whether they are trained on; otherwise a metric is computed on them.
    """
    problems, pixels, judged = ProblemList(), Counter[int](), 0
    for path, facts in masks.items():
        if facts.error:
            problems.add('masks that cannot be read', f'{path}: {facts.error}', 'Copy the files anew, or remove them.')
        elif facts.channels > 1:
            what = 'all the same: a grey picture' if facts.equal else 'colours'
            problems.add('masks of several channels, where a single one must hold class numbers',
                         f'{path}: {facts.channels} channels, {what}', f'{TOOL} --colours writes class numbers.')
        elif not facts.whole:
            problems.add('masks whose values are no whole numbers', path, 'A mask holds class numbers.')
        else:
            judged += 1
            _judge_values(problems, path, facts, labels)
            pixels.update(facts.pixels)
    if any(labels.is_class(value) or labels.is_ignored(value) for value in pixels):
        _judge_all(problems, pixels, judged, labels, whole, training)
    _explain_strange(problems, pixels, labels, lossy=any(path.lower().endswith(LOSSY_ENDINGS) for path in masks))
    return problems


def is_in_doubt(problems: ProblemList) -> bool:
    """Whether masks that were not read could show that a problem is none."""
    return any(problem.kind.startswith(DOUBTS) for problem in problems)


def _judge_values(problems: ProblemList, path: str, facts: MaskFacts, labels: Labels) -> None:
    wide = [value for value in facts.pixels if not 0 <= value <= IGNORED]
    if wide:
        problems.add('masks with values that do not fit in 8 bits, which the loader would take for others',
                     f'{path}: {join_names(f"{value} (read as {value % 256})" for value in wide)}',
                     f'Write class numbers of 0 to 254 and {IGNORED} for ignored, for example with {TOOL} --values.')
    strange = [
        value for value in facts.pixels if value not in wide and not labels.is_class(value) and not labels.is_ignored(value)
    ]
    if strange:
        problems.add(STRANGE, f'{path}: {join_names(map(str, strange))}')
    if facts.pixels and all(labels.is_ignored(value) for value in facts.pixels):
        problems.add('masks that hold nothing but ignored pixels', path, warning=True)


def _explain_strange(problems: ProblemList, pixels: Counter[int], labels: Labels, lossy: bool) -> None:
    """Say at the masks with strange values what would mend them."""
    problem = next((problem for problem in problems if problem.kind == STRANGE), None)
    if problem is None:
        return
    values, count = sorted(value for value in pixels if 0 <= value <= IGNORED), len(labels.classes)
    strange = [value for value in values if not labels.is_class(value) and not labels.is_ignored(value)]
    text = f'{labels.describe()[0].upper()}{labels.describe()[1:]}; found: {_list_ranges(values)}.'
    if lossy:
        text += ' JPEG and WebP change values: masks must be PNG files, made anew from their source.'
    elif not labels.reduce_zero_label and strange == [count] and 0 not in values:
        text += ' The classes seem to be numbered from 1: use reduce_zero_label=True, or write them from 0.'
    elif not labels.reduce_zero_label and strange == [count]:
        text += (f' If 0 is no class but what is left over, use reduce_zero_label=True; if {count} is ignored, write 255 for it, '
                 f'with {TOOL} --ignore {count}; if it is a class, metainfo.classes and the heads lack it.')
    elif len(values) == count == 2 and not labels.reduce_zero_label:
        text += f' {TOOL} --values {values[0]} {values[1]} writes class numbers.'
    else:
        text += (
            f' If these are ignored, write 255 for them ({TOOL} --ignore ...); if they are classes, metainfo.classes and the '
            'heads lack them.')
    problem.remedy = text


def _judge_all(problems: ProblemList, pixels: Counter[int], number: int, labels: Labels, whole: bool, training: bool) -> None:
    """Judge what all masks hold together."""
    total, where = sum(pixels.values()), f'in {number} mask(s)' + ('' if whole else ' that were read')
    ignored = sum(count for value, count in pixels.items() if labels.is_ignored(value))
    share = f'{100 * ignored / max(total, 1):.0f} % ignored'
    present = {labels.number(value) for value in pixels if labels.is_class(value)}
    raw = sorted(value for value in pixels if 0 <= value <= IGNORED)
    if not present:
        problems.add(NO_CLASS, f'the values {where} are {_list_ranges(raw)}; {labels.describe()} ({share})',
                     '' if whole else SAMPLED, warning=not whole)
        return
    if len(present) == 1 and len(labels.classes) > 1:
        name = labels.classes[min(present)]
        left_out = [name for index, name in enumerate(labels.classes) if index in labels.ignored]
        remedy = 'With a single class nothing is learnt, and its IoU is 100.'
        if left_out:
            remedy += f' {join_names(map(repr, left_out))} would be another, and ignore_index leaves it out.'
        elif len(raw) == 2 and not labels.reduce_zero_label:
            remedy += f' If {raw[0]} and {raw[1]} are the two classes, {TOOL} --values {raw[0]} {raw[1]} writes 0 and 1 for them.'
        remedy += '' if whole else f' {SAMPLED}'
        problems.add(f'{ONE_CLASS} ({share})', f'{name!r} {where}, whose values are {_list_ranges(raw)}', remedy,
                     warning=not whole or not training and (not ignored or bool(left_out)))
    _judge_zero(problems, pixels, number, labels, whole)
    absent = [name for index, name in enumerate(labels.classes) if index not in present and index not in labels.ignored]
    # Fewer masks than classes cannot be expected to show all.
    for name in absent if whole and len(present) > 1 and number >= len(labels.classes) else ():
        problems.add('class(es) without a pixel', repr(name),
                     'They cannot be learnt.' if training else 'Their IoU cannot be measured.', warning=True)


def _judge_zero(problems: ProblemList, pixels: Counter[int], number: int, labels: Labels, whole: bool) -> None:
    """Judge ``reduce_zero_label=True``: is 0 what is left over, as in ADE20K, or is it the first class?

    Masks that are numbered from 0 hold 0 and never the number of the classes, which is the last class of those that are
    numbered from 1. That says something only if the other classes are there: with many classes the last may be rare.
    """
    count = len(labels.classes)
    if not labels.reduce_zero_label or labels.label_map or not pixels[0] or pixels[count]:
        return
    others = [value for value in range(1, count) if pixels[value]]
    share = 100 * pixels[0] / sum(pixels.values())
    text = (f'0 is in {share:.0f} % of the pixels of {number} mask(s), and {count}, which would be {labels.classes[-1]!r}, '
            'in none')
    if len(others) == count - 1:
        remedy = '' if whole else f' {SAMPLED}'
        problems.add(
            KEPT_ZERO, text,
            f'The classes seem to be numbered 0 to {count - 1}: use reduce_zero_label=False, or {labels.classes[0]!r} is '
            f'lost and every other class has the name of the one before it.{remedy}', warning=not whole)
    elif whole:
        problems.add(KEPT_ZERO, text, 'Use reduce_zero_label=False if 0 is a class.', warning=True)
