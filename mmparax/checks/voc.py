"""What can be wrong with boxes in Pascal VOC's format: a list of names, an XML file and a JPEG for each."""
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from mmparax.checks.image_files import check_existence, check_sizes
from mmparax.checks.usage import Usage
from mmparax.datasets.voc import read_number
from mmparax.utils.problems import ProblemList
from mmparax.utils.spread import spread
from mmparax.utils.text import join_names

CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')


def check_voc(path: str, dataset: Mapping[str, Any], usage: Usage, sample: int | None = None) -> ProblemList:
    """Check a data set in Pascal VOC's format.

    Args:
        path: the list of names.
        dataset: config of the data set.
        usage: what it makes of its files.
        sample: how many images to look at; None means all.
    """
    found = ProblemList()
    if not usage.local:
        return found
    if 'sub_data_root' not in (dataset.get('data_prefix') or {}) and dataset.get('data_root'):
        found.add('data sets that do not look for their files in data_root',
                  f'{usage.place}.data_prefix has no sub_data_root, so they are looked for in {os.getcwd()!r}',
                  f"Set {usage.place}.data_prefix=dict(sub_data_root=''), or to the folder below data_root, such as 'VOC2012/'.")
        return found
    try:
        names = Path(path).read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        found.add('lists of images that cannot be read', f'{path!r}: {error}')
        return found
    if names and names[0].startswith('\ufeff'):
        found.add('lists of images that begin with a byte-order mark', repr(path),
                  'It is taken for a part of the first name: save '
                  'the list as plain UTF-8.')
        names[0] = names[0][1:]
    names = _check_names(names, path, found)
    root = os.path.join(dataset.get('data_root') or '', (dataset.get('data_prefix') or {}).get('sub_data_root') or '')
    annotations, images = (os.path.join(root, dataset.get(*option))
                           for option in (('ann_subdir', 'Annotations'), ('img_subdir', 'JPEGImages')))
    parameter = f'{usage.place}.data_prefix.sub_data_root'
    missing = check_existence(annotations, [f'{name}.xml' for name in names], path, parameter, found)
    reader = _Reader(usage, found)
    kept, sizes = [], []
    for number, name in enumerate(names):
        if number not in missing:
            size, count = reader.read(os.path.join(annotations, f'{name}.xml'))
            if not (min(size) < usage.min_size or usage.filter_empty and not count):
                kept.append(name)
                sizes.append(size)
    reader.sum_up(path)
    chosen = usage.select(np.arange(len(kept)))
    if not len(chosen):
        if len(missing) < max(len(names), 1):
            found.add('data sets without images', f'{path!r} has {len(names)} names, none of which is left',
                      f'{usage.describe_filter()} leaves them out.' if names else 'The list is empty.')
        return found
    files = [f'{kept[number]}.jpg' for number in chosen]
    absent = check_existence(images, files, path, parameter, found)
    there = [number for number in range(len(files)) if number not in absent]
    there = [there[at] for at in spread(len(there), sample)]
    check_sizes([os.path.join(images, files[number]) for number in there], [sizes[chosen[number]] for number in there], usage,
                path, found)
    return found


def _check_names(names: list[str], path: str, found: ProblemList) -> list[str]:
    """The usable names of a list."""
    usable = []
    for number, name in enumerate(names, 1):
        remedy = f'{path!r} needs one name a line, without folder, suffix or anything behind it.'
        if not name.strip():
            found.add(f'empty lines in {path!r}', f'line {number}', remedy)
        elif name != name.strip() or len(name.split()) > 1 and name.split()[-1] in ('1', '-1', '0'):
            found.add(f'lines of {path!r} with more than a name', repr(name), remedy)
        elif name.lower().endswith(('.jpg', '.jpeg', '.png', '.xml')):
            found.add(f'names with a suffix in {path!r}', repr(name), remedy)
        else:
            usable.append(name)
    for name, count in Counter(usable).items():
        if count > 1:
            found.add(f'names that {path!r} has several times', repr(name), 'They count as often.', warning=True)
    return usable


class _Reader:
    """Reads XML files as mmdetection does, and counts what it finds."""

    def __init__(self, usage: Usage, found: ProblemList):
        self.usage, self.found = usage, found
        self.unknown: Counter[str] = Counter()
        self.total, self.usable, self.ignored = 0, 0, 0

    def read(self, path: str) -> tuple[tuple[float, float], int]:
        """Returns (width, height), NaN where the file has none, and the number of objects of known classes."""
        size, count = (np.nan, np.nan), 0
        try:
            root = ElementTree.parse(path).getroot()
        except (OSError, ElementTree.ParseError) as error:
            self.found.add('XML files that cannot be read', f'{path!r}: {error}', 'Copy or export them again.')
            return size, count
        if root.find('size') is not None:  # without it the image is opened
            width, height = np.array([read_number(root, f'size/{name}', int) for name in ('width', 'height')], float)
            size = width, height
            if not (width > 0 and height > 0):
                self.found.add('XML files without a size in pixels', f'{path!r}: {width:g}x{height:g}',
                               'Write the width and height of the image into <size>, or leave <size> out.')
                size = np.nan, np.nan
        objects = root.findall('object')
        if self.usage.needs_annotations and not objects and not self.usage.filter_empty:
            self.found.add('XML files without objects', repr(path), 'They are trained as background.', warning=True)
        for number, entry in enumerate(objects, 1):
            count += self._read_object(entry, f'{path!r}, object {number}', size)
        return size, count

    def _read_object(self, entry: ElementTree.Element, place: str, size: tuple[float, float]) -> bool:
        self.total += 1
        name = entry.findtext('name')
        if name is None:
            self.found.add('objects without a <name>', place)
            return False
        if self.usage.classes is not None and name not in self.usage.classes:
            self.unknown[name] += 1
            return False
        box = np.array([read_number(entry, f'bndbox/{corner}') for corner in CORNERS], float)  # None becomes NaN
        if np.isnan(box).any():
            given = ', '.join(f'{corner}={entry.findtext(f"bndbox/{corner}")}' for corner in CORNERS)
            self.found.add('boxes that are not four numbers', f'{place} ({name!r}): {given}', 'Mend or remove these objects.')
            return True
        difficult = entry.findtext('difficult')
        if difficult is not None and not difficult.strip().lstrip('-').isdigit():
            self.found.add('objects whose <difficult> is no number', f'{place}: {difficult!r}')
        left, top, right, bottom = box.astype(int) - 1  # as mmdetection counts
        width, height = size
        text = f'{place} ({name!r}): {", ".join(f"{value:g}" for value in box)}' + ('' if np.isnan(width) else
                                                                                    f' in {width:g}x{height:g}')
        if right <= left or bottom <= top:
            self._add_empty('without width or height', text)
        elif right <= 0 or bottom <= 0 or left >= width or top >= height:
            self._add_empty('outside of their images', text)
        else:
            ignored = (difficult or '0').strip() != '0' or min(right - left, bottom - top) < self.usage.bbox_min_size
            self.usable += not ignored
            self.ignored += ignored
            if right > width or bottom > height or left < -1 or top < -1:
                self.found.add('boxes that reach beyond their images', text, 'They are cut at the edges.', warning=True)
        return True

    def _add_empty(self, kind: str, text: str) -> None:
        """Boxes that become empty make the loss of a detector infinite or NaN, unless they are ignored."""
        harmless = self.usage.evaluated or self.usage.bbox_min_size > 0 or self.usage.filters_boxes
        place = f'{self.usage.place}.filter_cfg'
        self.found.add(
            f'boxes {kind}', text, '' if harmless else f'They make losses NaN: remove them, or set {place}=dict('
            'bbox_min_size=1), which ignores them.', warning=harmless)

    def sum_up(self, path: str) -> None:
        """Add what only all files together show."""
        remedy = f'{self.usage.place}.metainfo.classes has {join_names(map(repr, self.usage.classes or ()))}.'
        for name, count in self.unknown.items():
            self.found.add('objects of classes that the data set has not', f'{count} {name!r}',
                           f'Training does without them. {remedy}', warning=True, count=count)
        if self.total and not self.usable and self.usage.needs_annotations:
            reasons = [(sum(self.unknown.values()), f'of unknown classes ({join_names(self.unknown)})'),
                       (self.ignored, f'difficult or smaller than bbox_min_size={self.usage.bbox_min_size:g}')]
            text = f'0 of {self.total} objects usable: ' + ', '.join(f'{count} {reason}' for count, reason in reasons if count)
            self.found.add(f'lists of images of which no object can be used ({path!r})', text, remedy)
        elif not self.total and self.usage.needs_annotations:
            self.found.add('lists of images without any object', repr(path))
