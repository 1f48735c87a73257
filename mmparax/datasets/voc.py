"""Boxes in the layout of Pascal VOC, read, checked and written in COCO's format.

    JPEGImages/NAME.jpg            any image format
    Annotations/NAME.xml           boxes and their classes
    ImageSets/Main/train.txt       names, one a line; each list becomes a file train.json
"""
import json
import math
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from mmparax.errors import InputError, MissingFileError, ParameterError, check_choice
from mmparax.utils.images import EXIF_SIDEWAYS, IMAGE_ENDINGS, read_header
from mmparax.utils.problems import ProblemList
from mmparax.utils.progress import Progress
from mmparax.utils.storage import write
from mmparax.utils.text import join_names

IMAGES, ANNOTATIONS, LISTS = 'JPEGImages', 'Annotations', 'ImageSets/Main'
USUAL_LISTS = ('train', 'val', 'test')
GENERATOR = 'mmparax voc2coco'
# What becomes of objects that VOC calls difficult.
DIFFICULT = ('ignore', 'keep', 'drop')
_XML_ERRORS = (ElementTree.ParseError, ValueError, LookupError)  # the last: an encoding that nobody knows


@dataclass(frozen=True)
class BoxedObject:
    """An object: the name of its class, its box (left, top, width, height) in pixels from 0, whether it is difficult."""
    name: str
    box: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class BoxedImage:
    """An image: its file in ``JPEGImages``, its size as it is loaded, and its objects."""
    file_name: str
    width: int
    height: int
    objects: list[BoxedObject]


@dataclass
class BoxSet:
    """What :func:`read_voc` found.

    Attributes:
        images: name of the list -> its images, in its order.
        classes: their names in the order of their numbers.
        problems: warnings; an error is raised.
    """
    images: dict[str, list[BoxedImage]]
    classes: list[str]
    problems: ProblemList = field(default_factory=ProblemList)

    def count(self, split: str, name: str) -> tuple[int, int]:
        """(boxes, images) of a class in a list."""
        boxes = [sum(found.name == name for found in image.objects) for image in self.images[split]]
        return sum(boxes), sum(number > 0 for number in boxes)


def read_voc(root: str | Path, splits: Sequence[str] | None = None, classes: Sequence[str] | None = None,
             zero_based: bool = False, progress: bool = True) -> BoxSet:
    """Read and check the images and annotations that some lists name.

    Args:
        root: folder in VOC's layout.
        splits: names of lists; by default those of ``train``, ``val`` and ``test`` that exist, else ``trainval``.
        classes: in the order of their numbers; by default all that occur in ``Annotations``, sorted by name: whatever the lists
            are, so that files which are written one by one agree.
        zero_based: coordinates count from 0 and the right and lower edge are not inside, as some labelling tools write them;
            VOC's own count from 1, and the last pixel is inside.
        progress: show a progress bar.

    Raises:
        MissingFileError: without such a folder or list.
        ParameterError: for classes that are given twice.
        InputError: listing everything that is wrong with the files.
    """
    root, problems = Path(root), ProblemList()
    if classes is not None and (not classes or len(set(classes)) < len(classes)):
        raise ParameterError('classes', list(classes), 'there must be at least one, each once')
    lists = find_lists(root, splits)
    files = _list_images(root / IMAGES, problems)
    names = {split: _read_list(path, problems) for split, path in lists.items()}
    for one, other in combinations(names, 2):
        shared = sorted(set(names[one]) & set(names[other])) if 'trainval' not in (one, other) else []
        if shared:
            problems.add(f'images of the list {one!r} that the list {other!r} has, too', join_names(shared, 3),
                         'Results on them say nothing.', True, len(shared))
    read: dict[str, BoxedImage | None] = {}
    for name in Progress(dict.fromkeys(name for part in names.values() for name in part), desc='reading', unit='image',
                         disable=not progress):
        read[name] = _read_image(root, name, files, zero_based, problems)
    if classes is not None:
        for name, image in read.items():
            unknown = sorted({found.name for found in image.objects} - set(classes)) if image else []
            if unknown:
                problems.add(f'annotations with classes that are not among the given ones ({join_names(classes)})',
                             f'{name}.xml: {join_names(unknown)}',
                             'Name all; metainfo=dict(classes=...) in a config chooses some of them.')
    problems.raise_errors(f'in {str(root)!r}; nothing was written')
    found = BoxSet({split: [read[name] for name in part] for split, part in names.items()},
                   _collect_classes(root / ANNOTATIONS) if classes is None else list(classes), problems)
    if not any(image.objects for images in found.images.values() for image in images):
        raise InputError(f'the annotations in {str(root / ANNOTATIONS)!r} that the lists {join_names(lists)} name hold no box.')
    for name in found.classes:
        absent = [split for split in found.images if not found.count(split, name)[0]]
        if absent:
            problems.add('classes that have no box in a list', f'{name!r} in {join_names(absent)}', warning=True)
    return found


def find_lists(root: str | Path, splits: Sequence[str] | None = None) -> dict[str, Path]:
    """Name -> file of the lists to read; the arguments and errors are those of :func:`read_voc`."""
    root = Path(root)
    if not root.is_dir():
        raise MissingFileError(f'the folder {str(root)!r} does not exist.')
    for part in (IMAGES, ANNOTATIONS, LISTS):
        if not (root / part).is_dir():
            inner = [path.name for path in sorted(root.iterdir()) if (path / part).is_dir()]
            raise MissingFileError(f'the folder {str(root)!r} has no {part}, which VOC\'s layout has' + (
                f'; {join_names(map(repr, inner))} in it has: give that folder.' if inner else
                f': {IMAGES} holds images, {ANNOTATIONS} a file NAME.xml for each, {LISTS} lists of names such as train.txt.'))
    there = {path.stem: path for path in sorted((root / LISTS).glob('*.txt'))}
    if splits is None:
        splits = [name for name in USUAL_LISTS if name in there]
        if 'train' not in splits and 'trainval' in there:
            splits = ['trainval', *splits]
    missing = [name for name in splits if name not in there]
    if missing or not splits:
        raise MissingFileError(f'{str(root / LISTS)!r} has no list {join_names(missing or USUAL_LISTS)} (.txt); it has '
                               f'{join_names(there) or "none"}.')
    return {name: there[name] for name in dict.fromkeys(splits)}


def write_coco(found: BoxSet, out_dir: str | Path, difficult: str = 'ignore', overwrite: bool = False) -> list[Path]:
    """Write a JSON file in COCO's format for each list, ``OUT_DIR/LIST.json``.

    Args:
        found: from :func:`read_voc`.
        out_dir: folder, made if it does not exist.
        difficult: of objects that are difficult, ``'ignore'`` makes ``iscrowd: 1``, which neither training nor COCO's metric
            counts, as in VOC's own metric; ``'keep'`` makes objects like the others, ``'drop'`` leaves them out.
        overwrite: replace what this function wrote before.

    Raises:
        ParameterError: if a file is there already.
        StorageError: if one cannot be written.
    """
    check_choice('difficult', difficult, DIFFICULT)
    paths = check_targets(out_dir, list(found.images), overwrite)
    for split, path in paths.items():
        write(path, json.dumps(_make_coco(found, split, difficult)).encode(), 'The files before it are whole.')
    return list(paths.values())


def check_targets(out_dir: str | Path, splits: Sequence[str], overwrite: bool = False) -> dict[str, Path]:
    """List -> file that :func:`write_coco` writes; raise ParameterError if one must not be replaced."""
    paths = {split: Path(out_dir) / f'{split}.json' for split in splits}
    for path in paths.values():
        if not path.exists():
            continue
        try:
            is_own = json.loads(path.read_bytes())['info']['generator'] == GENERATOR
        except (OSError, ValueError, LookupError, TypeError):
            is_own = False
        if not is_own:  # never replaced, not even when forced: it may be somebody's work
            raise ParameterError('out_dir', str(out_dir), f'{path.name} in it is not from this conversion',
                                 'Choose another folder.')
        if not overwrite:
            raise ParameterError('out_dir', str(out_dir), f'it holds {path.name} already',
                                 'Choose another folder, or replace them with overwrite=True.')
    return paths


# ---- parts ----


def _collect_classes(folder: Path) -> list[str]:
    """The names of all objects in a folder of annotations, sorted; files that cannot be read are left out."""
    found: set[str] = set()
    for path in folder.glob('*.xml'):
        try:
            found.update((entry.text or '').strip() for entry in ElementTree.parse(path).getroot().findall('object/name'))
        except _XML_ERRORS:
            continue
    return sorted(found - {''})


def _list_images(folder: Path, problems: ProblemList) -> dict[str, str]:
    """Name without its ending -> file."""
    files: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_ENDINGS and not path.name.startswith('.'):
            if path.stem in files:
                problems.add('names that several images have', f'{files[path.stem]}, {path.name}')
            files[path.stem] = path.name
    return files


def _read_list(path: Path, problems: ProblemList) -> list[str]:
    names = [line.strip() for line in path.read_text(encoding='utf-8-sig').splitlines() if line.strip()]
    if not names:
        problems.add('lists without a name', path.name)
    counts = Counter(names)
    for name, count in counts.items():
        if count > 1:
            problems.add(f'names that {path.name} has more than once', name)
    return list(counts)


def _read_image(root: Path, name: str, files: dict[str, str], zero_based: bool, problems: ProblemList) -> BoxedImage | None:
    """Read an annotation and the header of its image; None, and one more problem, if something is wrong with them."""
    remedy = 'A list holds names without endings, one a line.'
    path = root / ANNOTATIONS / f'{name}.xml'
    if not path.is_file():
        problems.add(f'names of the lists without a file NAME.xml in {ANNOTATIONS}', name, remedy)
    if name not in files:
        problems.add(f'names of the lists without an image in {IMAGES}', name, remedy)
    if not path.is_file() or name not in files:
        return None
    try:
        header = read_header(root / IMAGES / files[name])
    except OSError as error:
        problems.add('images that cannot be read', f'{files[name]} ({error})')
        return None
    try:
        tree = ElementTree.parse(path).getroot()
    except _XML_ERRORS as error:
        problems.add('annotations that are no XML', f'{path.name} ({error})')
        return None
    width, height = header.loaded_size
    said = tuple(read_number(tree, f'size/{side}') for side in ('width', 'height'))
    if all(said) and said != (width, height):  # some tools write 0 if they do not know it
        note = ' as its EXIF tag turns it' if header.orientation in EXIF_SIDEWAYS else ''
        problems.add('annotations made for another size of their image',
                     f'{path.name}: {said[0]:g}x{said[1]:g}, {files[name]}: {width}x{height}{note}')
        return None
    objects = [_read_object(entry, path.name, (width, height), zero_based, problems) for entry in tree.findall('object')]
    if not objects:
        problems.add('images without a box', files[name], 'Training leaves them out, evaluation does not.', True)
    return BoxedImage(files[name], width, height, [found for found in objects if found is not None])


def _read_object(entry: ElementTree.Element, file: str, size: tuple[int, int], zero_based: bool,
                 problems: ProblemList) -> BoxedObject | None:
    name = (entry.findtext('name') or '').strip()
    edges = [read_number(entry, f'bndbox/{edge}') for edge in ('xmin', 'ymin', 'xmax', 'ymax')]
    if not name:
        problems.add('objects without a name', file)
        return None
    if any(edge is None for edge in edges):
        problems.add('boxes whose xmin, ymin, xmax or ymax is missing or no number', f'{file}: {name}')
        return None
    shown = f'{file}: {name} ({", ".join(f"{edge:g}" for edge in edges)})'
    if edges[2] < edges[0] or edges[3] < edges[1]:
        problems.add('boxes whose xmax or ymax is below xmin or ymin', shown)
        return None
    if not zero_based:
        if min(edges[:2]) < 1 and min(edges[:2]) >= 0:
            problems.add('boxes that begin at 0, where VOC counts from 1', shown,
                         'If the coordinates count from 0, use zero_based=True.', True)
        edges[:2] = edges[0] - 1, edges[1] - 1
    left, top = max(edges[0], 0.), max(edges[1], 0.)
    right, bottom = min(edges[2], size[0]), min(edges[3], size[1])
    if edges[2] - edges[0] <= 1 - zero_based or edges[3] - edges[1] <= 1 - zero_based or right <= left or bottom <= top:
        problems.add('boxes without an area in the image, which were left out', shown, warning=True)
        return None
    if edges[2] > size[0] or edges[3] > size[1] or min(edges[:2]) < -1:
        problems.add('boxes that reach beyond their image, which were clipped', shown, warning=True)
    difficult = read_number(entry, 'difficult')
    return BoxedObject(name, (left, top, right - left, bottom - top), bool(difficult))


def read_number(element: ElementTree.Element, path: str, kind: type = float) -> float | None:
    """A finite number in a part of an element; None if it has none of this kind."""
    try:
        number = kind(element.findtext(path) or '')
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _make_coco(found: BoxSet, split: str, difficult: str) -> dict[str, Any]:
    numbers = {name: number for number, name in enumerate(found.classes, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(found.images[split], 1):
        images.append(dict(id=number, file_name=image.file_name, width=image.width, height=image.height))
        for entry in image.objects:
            if entry.difficult and difficult == 'drop':
                continue
            annotations.append(
                dict(id=len(annotations) + 1, image_id=number, category_id=numbers[entry.name], bbox=list(entry.box),
                     area=entry.box[2] * entry.box[3], iscrowd=int(entry.difficult and difficult == 'ignore')))
    return dict(info=dict(generator=GENERATOR, list=split, difficult=difficult), images=images, annotations=annotations,
                categories=[dict(id=number, name=name, supercategory='') for name, number in numbers.items()])
