"""The user's own images and masks: checked, split, renumbered, and written in the layout that the configs read.

    images/{training,validation}/NAME.jpg           copies of the images, or links to them
    annotations/{training,validation}/NAME.png      class numbers from 0, and 255 for ignored pixels
    classes.json                                    names of the classes, their values in the masks, numbers of images
"""
import hashlib
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from mmparax.errors import InputError, MissingFileError, ParameterError, StorageError, check_int, check_number
from mmparax.utils.text import join_names

IGNORED = 255  # what mmsegmentation's losses and metrics leave out
MAX_CLASSES = 255
MASK_SUFFIX = '.png'
SPLITS = ('training', 'validation')
# Suffix of a given file -> suffix of the written one: mmsegmentation reads the files of one suffix in a folder.
SUFFIXES = {'.jpg': '.jpg', '.jpeg': '.jpg', '.png': '.png', '.bmp': '.bmp', '.tif': '.tif', '.tiff': '.tif', '.webp': '.webp'}
_FORMAT = 'mmparax-masks'
_EXIF_ORIENTATION, _EXIF_SIDEWAYS = 0x0112, (5, 6, 7, 8)
_SHOWN = 20  # problems of one kind that an error lists


@dataclass
class ImageMaskPair:
    """An image and its mask.

    Attributes:
        image: its file.
        mask: file of the mask.
        pixels: (V,) int, the number of pixels of the mask with the value 0, 1, ..., V - 1.
        turned: whether the image is stored turned and its EXIF tag says so.
    """
    image: Path
    mask: Path
    pixels: np.ndarray
    turned: bool


@dataclass
class MaskSet:
    """What :func:`examine` found in two folders.

    Attributes:
        pairs: under ``'training'`` and ``'validation'``.
        classes: names of the classes.
        values: value of each class in the masks.
        ignored: values in the masks that are no class.
        suffix: ending of every image in the written folder.
        seed: seed of the split.
    """
    pairs: dict[str, list[ImageMaskPair]]
    classes: list[str]
    values: list[int]
    ignored: list[int]
    suffix: str
    seed: int

    def compute_share(self, values: Iterable[int]) -> float:
        """Share of all pixels that have one of these values."""
        pairs = [pair for split in SPLITS for pair in self.pairs[split]]
        return sum(_count_pixels(pair, values) for pair in pairs) / sum(int(pair.pixels.sum()) for pair in pairs)

    def count_images(self, split: str, values: Iterable[int]) -> int:
        """Number of images of a split that have one of these values."""
        values = list(values)
        return sum(_count_pixels(pair, values) > 0 for pair in self.pairs[split])

    def list_warnings(self) -> list[str]:
        """Sentences on what can be trained on but is probably not meant."""
        found = []
        for name, value in zip(self.classes, self.values):
            training, validation = (self.count_images(split, [value]) for split in SPLITS)
            if not training:
                found.append(f'{name!r} (value {value}) is in no {"training image" if validation else "mask"}: it cannot be '
                             'learnt.')
            elif not validation:
                found.append(f'{name!r} (value {value}) is in no validation image: its IoU cannot be measured. Another '
                             'seed or a larger val_ratio may help.')
        pairs = [pair for split in SPLITS for pair in self.pairs[split]]
        empty = [pair.mask.name for pair in pairs if not _count_pixels(pair, self.values)]
        if empty:
            found.append(f'{len(empty)} mask(s) hold nothing but ignored pixels: {join_names(empty)}.')
        turned = [pair.image.name for pair in pairs if pair.turned]
        if turned:
            found.append(f'{len(turned)} image(s) are stored turned and are turned back by their EXIF tag when they are read; '
                         f'their masks are taken as they are: {join_names(turned)}.')
        return found


def examine(images: str | Path, masks: str | Path, val_ratio: float = 0.2, classes: Sequence[str] | None = None,
            values: Sequence[int] | None = None, ignore: Sequence[int] | None = None, seed: int = 0,
            progress: bool = True) -> MaskSet:
    """Read and check every image and mask of two folders, and choose the validation images.

    Args:
        images: folder of the images.
        masks: folder of PNG masks with the images' names, one channel or a palette, a class number in each pixel.
        val_ratio: share of the images that are kept for validation, between 0 and 1.
        classes: names of the classes; by default ``'class VALUE'``.
        values: value of each class in the masks; by default the numbers from 0 that are not ignored, or, without
            ``classes``, all that are found.
        ignore: values that are no class; by default 255, unless that is a class.
        seed: which images are kept for validation.
        progress: show a progress bar.

    Raises:
        MissingFileError: if a folder does not exist.
        InputError: if an argument is out of range, or listing every file that cannot be used.
    """
    if not 0 < check_number('val_ratio', val_ratio) < 1:
        raise ParameterError('val_ratio', val_ratio, 'it must be between 0 and 1, without both')
    check_int('seed', seed, 0)
    numbering = _check_numbering(classes, values, ignore)
    problems: dict[str, list[str]] = defaultdict(list)
    pairs, suffixes = [], set()
    for image, mask in tqdm(_match(images, masks, problems), desc='reading', unit='image', disable=not progress):
        pair = _read(image, mask, problems)
        suffixes.add(SUFFIXES[image.suffix.lower()])
        if pair is not None:
            pairs.append(pair)
    if len(suffixes) > 1:
        problems['formats of the images, of which mmsegmentation reads one in a data set: convert all to one'] = \
            sorted(suffixes)
    found = {int(value) for pair in pairs for value in pair.pixels.nonzero()[0]}
    names, values, ignored = _number_classes(*numbering, found)
    if len(values) > MAX_CLASSES:
        raise InputError(f'the masks in {str(masks)!r} hold {len(values)} different values, and there can be at most '
                         f'{MAX_CLASSES} classes: they seem to be no class numbers.')
    _check_values(pairs, values, ignored, problems)
    if problems:
        raise InputError(f'{sum(map(len, problems.values()))} problem(s) in {str(images)!r} and {str(masks)!r}; nothing '
                         f'was written.{_format_problems(problems)}')
    if len(pairs) < 2 or len(values) < 2:
        raise InputError(f'there are {len(pairs)} image(s) and {len(values)} class(es) in {str(images)!r} and '
                         f'{str(masks)!r}: training and validation need an image each, and two classes.')
    # By a digest of the name: the same on every machine, and new images move few of the old ones.
    drawn = sorted(pairs, key=lambda pair: hashlib.sha256(f'{seed}/{pair.image.stem}'.encode()).digest())
    count = min(max(round(val_ratio * len(pairs)), 1), len(pairs) - 1)
    split = {name: sorted(part, key=lambda pair: pair.image.name) for name, part in zip(SPLITS, (drawn[count:], drawn[:count]))}
    return MaskSet(split, names, values, ignored, suffixes.pop(), int(seed))


def check_target(out_dir: str | Path, sources: Sequence[str | Path], overwrite: bool = False) -> None:
    """Raise ParameterError if ``out_dir`` must not be written to.

    Args:
        out_dir: folder to create.
        sources: folders that are read.
        overwrite: a folder that :func:`write_masks` made may be replaced.
    """
    out = Path(out_dir).resolve()
    for source in map(Path, sources):
        if out in (source.resolve(), *source.resolve().parents):
            raise ParameterError('out_dir', str(out), f'the folder {str(source)!r}, which is read, must not be in it')
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        found = json.loads((out / 'classes.json').read_text(encoding='utf-8')).get('format')
    except (OSError, ValueError, AttributeError):
        found = None
    if found != _FORMAT:  # never deleted, not even when forced: it may be anything
        raise ParameterError('out_dir', str(out), 'it holds something that is not a set of prepared masks',
                             'Choose another folder.')
    if not overwrite:
        raise ParameterError('out_dir', str(out), 'it holds prepared masks already',
                             'Choose another folder, or replace them with overwrite=True.')


def write_masks(found: MaskSet, out_dir: str | Path, link: bool = False, progress: bool = True) -> None:
    """Write images and masks; what :func:`check_target` allows to replace is replaced.

    The folder appears only when all is written; an interrupted call leaves nothing behind.

    Args:
        found: from :func:`examine`.
        out_dir: folder to create.
        link: make symbolic links to the images instead of copies.
        progress: show a progress bar.

    Raises:
        StorageError: if it cannot be written.
    """
    out = Path(out_dir).resolve()
    draft, old = (out.with_name(f'.{out.name}.{os.getpid()}.{kind}') for kind in ('tmp', 'old'))
    labels = np.full(1 + max(*found.values, *found.ignored, 0), IGNORED, np.uint8)
    labels[found.values] = range(len(found.values))
    try:
        draft.mkdir(parents=True)
        with tqdm(total=sum(map(len, found.pairs.values())), desc='writing', unit='image', disable=not progress) as bar:
            for split, pairs in found.pairs.items():
                images, masks = (draft / kind / split for kind in ('images', 'annotations'))
                images.mkdir(parents=True)
                masks.mkdir(parents=True)
                for pair in pairs:
                    target = images / f'{pair.image.stem}{found.suffix}'
                    target.symlink_to(pair.image.resolve()) if link else shutil.copyfile(pair.image, target)
                    with Image.open(pair.mask) as mask:
                        Image.fromarray(labels[np.asarray(mask).astype(np.int64)]).save(masks / f'{pair.image.stem}.png')
                    bar.update()
        meta = dict(format=_FORMAT, version=1, classes=found.classes, values=found.values, ignored=found.ignored,
                    counts={split: len(pairs) for split, pairs in found.pairs.items()}, seed=found.seed)
        (draft / 'classes.json').write_text(json.dumps(meta, indent=1) + '\n', encoding='utf-8')
        if out.exists():
            out.rename(old)
        draft.rename(out)
    except OSError as error:
        raise StorageError(f'{str(out)!r} cannot be written: {error}.') from error
    finally:
        if old.exists() and not out.exists():
            old.rename(out)
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


# ---- parts ----


def _count_pixels(pair: ImageMaskPair, values: Iterable[int]) -> int:
    return int(sum(pair.pixels[value] for value in values if value < len(pair.pixels)))


def _check_values(pairs: Sequence[ImageMaskPair], values: Sequence[int], ignored: Sequence[int],
                  problems: dict[str, list[str]]) -> None:
    """Add every mask to the problems that holds a value which is neither a class nor ignored."""
    kind = (f'masks with values that are no class (classes: {join_names(map(str, values))}; ignored: '
            f'{join_names(map(str, ignored)) or "none"}; see the arguments classes, values and ignore)')
    for pair in pairs:
        strange = sorted(set(map(int, pair.pixels.nonzero()[0])) - {*values, *ignored})
        if strange:
            problems[kind].append(f'{pair.mask.name}: {join_names(map(str, strange))}')


def _format_problems(problems: dict[str, list[str]]) -> str:
    """The problems in words, a line each, under their kinds."""
    lines = []
    for kind, names in problems.items():
        lines += [f'  {kind} ({len(names)}):', *(f'    {name}' for name in names[:_SHOWN])]
        if len(names) > _SHOWN:
            lines.append(f'    and {len(names) - _SHOWN} more')
    return ''.join(f'\n{line}' for line in lines)


Numbering = tuple[list[str] | None, list[int] | None, list[int]]


def _check_numbering(classes: Sequence[str] | None, values: Sequence[int] | None, ignore: Sequence[int] | None) -> Numbering:
    """Return the arguments as lists; raise ParameterError if they contradict each other."""
    for name, given in (('classes', classes), ('values', values), ('ignore', ignore)):
        if given is not None and len(set(given)) != len(given):
            raise ParameterError(name, list(given), 'nothing may be in it twice')
    for name, given in (('values', values), ('ignore', ignore)):
        for value in given or ():
            check_int(name, value, 0)
    for name, given in (('classes', classes), ('values', values)):
        if given is not None and not 2 <= len(given) <= MAX_CLASSES:
            raise ParameterError(name, list(given), f'there must be 2 to {MAX_CLASSES} classes, the background among them')
    if classes is not None and values is not None and len(classes) != len(values):
        raise ParameterError('values', list(values), f'there are {len(classes)} classes, and each has one value')
    if ignore is None:
        ignore = [IGNORED] if IGNORED not in (values or ()) else []
    both = sorted(set(ignore) & set(values or ()))
    if both:
        raise ParameterError('ignore', list(ignore), f'{both[0]} is the value of a class')
    return None if classes is None else list(classes), None if values is None else list(values), list(ignore)


def _number_classes(classes: list[str] | None, values: list[int] | None, ignored: list[int],
                    found: set[int]) -> tuple[list[str], list[int], list[int]]:
    """(names, values, ignored values) of the classes when the values in the masks are known."""
    if values is None and classes is None:
        values = sorted(found - set(ignored))
    elif values is None:
        values = [value for value in range(len(classes) + len(ignored)) if value not in ignored][:len(classes)]
    return classes or [f'class {value}' for value in values], values, ignored


def _match(images: str | Path, masks: str | Path, problems: dict[str, list[str]]) -> list[tuple[Path, Path]]:
    """(image, mask) of every name that both folders have once; the others become problems."""
    images, masks = Path(images), Path(masks)
    for name, folder in (('images', images), ('masks', masks)):
        if not folder.is_dir():
            raise MissingFileError(f'the folder {str(folder)!r} for {name} does not exist.')
    together = images.resolve() == masks.resolve()  # then PNG files are masks
    endings = [suffix for suffix in SUFFIXES if not (together and suffix == MASK_SUFFIX)]
    files: dict[str, list[Path]] = defaultdict(list)
    labels: dict[str, Path] = {}
    for path in sorted(images.iterdir()):
        if path.suffix.lower() in endings and not path.name.startswith('.'):
            files[path.stem].append(path)
    for path in sorted(masks.iterdir()):
        if path.suffix.lower() == MASK_SUFFIX and not path.name.startswith('.'):
            labels[path.stem] = path
    for folder, there, kinds in ((images, files, ', '.join(endings)), (masks, labels, MASK_SUFFIX)):
        if not there:
            raise MissingFileError(f'the folder {str(folder)!r} holds no file that ends in {kinds}; folders in it are not '
                                   'looked into.')
    for stem, paths in files.items():
        if len(paths) > 1:
            problems['names that several images have'].append(join_names(path.name for path in paths))
        if stem not in labels:
            problems[f'images without a mask (NAME{MASK_SUFFIX})'].append(paths[0].name)
    lonely = [path.name for stem, path in labels.items() if stem not in files]
    if lonely:
        problems['masks without an image'] = lonely
    return [(paths[0], labels[stem]) for stem, paths in files.items() if len(paths) == 1 and stem in labels]


def _read(image: Path, mask: Path, problems: dict[str, list[str]]) -> ImageMaskPair | None:
    """Read an image and its mask completely; None, and one more problem, if something is wrong with them."""
    opened = []
    for path in (image, mask):
        try:
            with Image.open(path) as file:
                file.load()
                opened.append((file, file.getexif().get(_EXIF_ORIENTATION, 1)))
        except Exception as error:  # whatever a decoder says
            problems['files that cannot be read'].append(f'{path.name} ({type(error).__name__}: {error})')
    if len(opened) < 2:
        return None
    (picture, orientation), (labels, _) = opened
    if len(labels.getbands()) > 1:
        problems['masks with several channels, where a single one must hold class numbers'].append(
            f'{mask.name} ({len(labels.getbands())} channels, {labels.mode})')
        return None
    size = picture.size[::-1] if orientation in _EXIF_SIDEWAYS else picture.size  # as it will be when it is read
    if size != labels.size:
        turned = f', turned by its EXIF orientation {orientation}' if size != picture.size else ''
        problems['images and masks of different sizes'].append(
            f'{image.name}: {size[0]}x{size[1]}{turned}, {mask.name}: {labels.width}x{labels.height}')
        return None
    return ImageMaskPair(image, mask, np.bincount(np.asarray(labels).ravel()), orientation != 1)
