"""Reads and checks the user's own images and masks, and chooses what is trained and what is validated on."""
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmparax.datasets.drawing import draw_validation
from mmparax.datasets.masks.colours import ColourTable, read_colours
from mmparax.datasets.masks.files import SPLITS, SUFFIXES, MatchedFile, match_files, parse_mask_suffix
from mmparax.datasets.masks.numbering import check_count, check_numbering, check_values
from mmparax.datasets.masks.reading import count_values, read_values
from mmparax.errors import InputError, ParameterError, check_int, check_number
from mmparax.utils.images import EXIF_SIDEWAYS, UPRIGHT, describe_image, open_image
from mmparax.utils.problems import ProblemList
from mmparax.utils.progress import Progress
from mmparax.utils.text import join_names

VAL_RATIO = 0.2


@dataclass
class ImageMaskPair:
    """An image and its mask.

    Attributes:
        image: its file.
        mask: file of the mask.
        pixels: value -> number of pixels of the mask that have it.
        size: (height, width) in pixels.
        turned: whether the image is stored turned and its EXIF tag says so.
    """
    image: Path
    mask: Path
    pixels: dict[int, int]
    size: tuple[int, int]
    turned: bool


@dataclass
class MaskSet:
    """What :func:`examine` found in two folders.

    Attributes:
        pairs: under ``'training'``, ``'validation'`` and, if it was given, ``'test'``.
        classes: names of the classes.
        values: value of each class in the masks.
        ignored: values in the masks that are no class.
        suffix: ending of every image in the written folder.
        seed: seed of the split and of the training.
        colours: what the colours of the masks stand for, if they are no numbers.
        drawn: whether the validation images were drawn.
        unlisted: number of images that no list names.
    """
    pairs: dict[str, list[ImageMaskPair]]
    classes: list[str]
    values: list[int]
    ignored: list[int]
    suffix: str
    seed: int
    colours: ColourTable | None = None
    drawn: bool = True
    unlisted: int = 0

    def compute_share(self, values: Iterable[int]) -> float:
        """Share of all pixels that have one of these values."""
        values, pairs = list(values), self._list_pairs()
        return sum(_count_pixels(pair, values) for pair in pairs) / sum(sum(pair.pixels.values()) for pair in pairs)

    def count_images(self, split: str, values: Iterable[int]) -> int:
        """Number of images of a split that have one of these values."""
        values = list(values)
        return sum(_count_pixels(pair, values) > 0 for pair in self.pairs[split])

    def describe_value(self, value: int) -> str:
        """A value, or the colours that stand for it."""
        if self.colours is None:
            return str(value)
        return ' '.join('{},{},{}'.format(*rgb) for rgb, each in self.colours.colours.items() if each == value)

    def list_warnings(self) -> list[str]:
        """Sentences on what can be trained on but is probably not meant."""
        found = []
        remedy = ' Another seed or a larger val_ratio may help.' if self.drawn else ''
        for name, value in zip(self.classes, self.values):
            counts = {split: self.count_images(split, [value]) for split in self.pairs}
            where = repr(name) + ('' if self.colours else f' (value {value})')
            if not any(counts.values()):
                found.append(f'{where} is in no mask: it cannot be learnt.')
            elif not counts['training']:
                found.append(f'{where} is in no training image: it cannot be learnt.')
            for split in counts:
                if split != 'training' and counts['training'] and not counts[split]:
                    found.append(f'{where} is in no {split} image: its IoU cannot be measured.'
                                 + (remedy if split == 'validation' else ''))
        empty = [pair.mask.name for pair in self._list_pairs() if not _count_pixels(pair, self.values)]
        if empty:
            found.append(f'{len(empty)} mask(s) hold nothing but ignored pixels: {join_names(empty)}.')
        turned = [pair.image.name for pair in self._list_pairs() if pair.turned]
        if turned:
            found.append(f'{len(turned)} image(s) are stored turned and are turned back by their EXIF tag when they are read; '
                         f'their masks are taken as they are: {join_names(turned)}.')
        if self.unlisted:
            found.append(f'{self.unlisted} image(s) are in no list and are left out.')
        names = [{pair.image.stem for pair in pairs} for pairs in self.pairs.values()]
        shared = sorted(set().union(*(one & other for number, one in enumerate(names) for other in names[:number])))
        if shared:
            found.append(f'{len(shared)} name(s) are in several splits; if they are the same images, the result is flattered: '
                         f'{join_names(shared)}.')
        return found

    def _list_pairs(self) -> list[ImageMaskPair]:
        return [pair for pairs in self.pairs.values() for pair in pairs]


def examine(images: str | Path, masks: str | Path, val_ratio: float | None = None, classes: Sequence[str] | None = None,
            values: Sequence[int] | None = None, ignore: Sequence[int | str] | None = None, seed: int = 0, progress: bool = True,
            *, splits: Sequence[str | Path] | None = None, mask_suffix: str = '', colours: str | Path | None = None) -> MaskSet:
    """Read and check every image and mask of two folders, and choose the validation images.

    Args:
        images: folder of the images. If it holds folders ``train`` and, perhaps, ``val`` and ``test`` (or ``training``,
            ``validation``, ``train2017``, ...), they are the split.
        masks: folder of masks with the images' names, one channel or a palette, a class number in each pixel; with the same
            folders in it if the images have some.
        val_ratio: share of the images that are kept for validation, between 0 and 1, if no split is given; by default 0.2.
        classes: names of the classes; by default ``'class VALUE'``, or those in ``colours``.
        values: value of each class in the masks; by default the numbers from 0 that are not ignored, or, without
            ``classes``, all that are found.
        ignore: values, or names of classes, that are not to be learnt; by default 255, unless that is a class.
        seed: which images are kept for validation.
        progress: show a progress bar.
        splits: two or three files with a name a line: training, validation and test.
        mask_suffix: what masks have behind the names of the images, such as ``'_L'`` or ``'_L.png'``.
        colours: a file that says what the colours in the masks stand for
            (:data:`mmparax.datasets.masks.colours.FORMS`).

    Raises:
        MissingFileError: if a folder or file does not exist.
        InputError: if an argument is out of range, or listing every file that cannot be used.
    """
    if val_ratio is not None and not 0 < check_number('val_ratio', val_ratio) < 1:
        raise ParameterError('val_ratio', val_ratio, 'it must be between 0 and 1, without both')
    check_int('seed', seed, 0)
    table = None if colours is None else read_colours(colours)
    numbering = check_numbering(classes, values, ignore, table)
    problems = ProblemList()
    matches = match_files(images, masks, parse_mask_suffix(mask_suffix), splits, problems)
    if val_ratio is not None and 'validation' in matches.splits:
        raise ParameterError('val_ratio', val_ratio, 'the validation images are given already',
                             'Leave it out, or give one folder without splits.')
    found: list[tuple[str | None, ImageMaskPair]] = []
    for each in Progress(matches.files, desc='reading', unit='image', disable=not progress):
        pair = _read(each, table, problems)
        if pair is not None:
            found.append((each.split, pair))
    pairs = [pair for _, pair in found]
    suffixes = sorted({SUFFIXES[each.image.suffix.lower()] for each in matches.files})
    if len(suffixes) > 1:
        for suffix in suffixes:
            problems.add('formats of the images, of which mmsegmentation reads one in a data set: convert all to one', suffix)
    numbering.complete({value for pair in pairs for value in pair.pixels})
    check_count(numbering.values, str(masks))
    said = [name for name, given in (('classes', classes), ('values', values)) if given is not None]
    check_values([pair.pixels for pair in pairs], [pair.mask.name for pair in pairs], numbering, said, problems)
    problems.raise_errors(f'in {str(images)!r} and {str(masks)!r}; nothing was written')
    if len(pairs) < 2 or len(numbering.values) < 2:
        raise InputError(f'there are {len(pairs)} image(s) and {len(numbering.values)} class(es) in {str(images)!r} and '
                         f'{str(masks)!r}: training and validation need an image each, and two classes.')
    split, drawn = _split(found, VAL_RATIO if val_ratio is None else val_ratio, seed)
    return MaskSet(split, numbering.classes, numbering.values, numbering.ignored, suffixes[0], int(seed), table, drawn,
                   matches.unlisted)


# ---- parts ----


def _count_pixels(pair: ImageMaskPair, values: Iterable[int]) -> int:
    return sum(pair.pixels.get(value, 0) for value in values)


def _split(found: Sequence[tuple[str | None, ImageMaskPair]], val_ratio: float,
           seed: int) -> tuple[dict[str, list[ImageMaskPair]], bool]:
    """The pairs of each split by name, and whether the validation images were drawn from those for training."""
    parts: dict[str, list[ImageMaskPair]] = {}
    for name, pair in found:
        parts.setdefault(name or 'training', []).append(pair)
    drawn = 'validation' not in parts
    if drawn:
        pairs = parts['training']
        if len(pairs) < 2:
            raise InputError('there is 1 image for training, and validation needs one of its own.')
        parts['training'], parts['validation'] = draw_validation(pairs, lambda pair: pair.image.stem, val_ratio, seed)
    return {name: sorted(parts[name], key=lambda pair: pair.image.name) for name in SPLITS if name in parts}, drawn


def _read(file: MatchedFile, colours: ColourTable | None, problems: ProblemList) -> ImageMaskPair | None:
    """Read an image and its mask completely; None, and one more problem, if something is wrong with them."""
    picture = labels = None
    try:
        with open_image(file.image) as image:
            image.load()
            picture = describe_image(image)
    except Exception as error:  # whatever a decoder says
        problems.add('files that cannot be read', f'{file.image.name} ({type(error).__name__}: {error})')
    try:
        labels = read_values(file.mask, colours, problems)
    except Exception as error:
        problems.add('files that cannot be read', f'{file.mask.name} ({type(error).__name__}: {error})')
    if picture is None or labels is None:
        return None
    size = picture.loaded_size
    height, width = labels.shape
    if size != (width, height):
        turned = f', turned by its EXIF orientation {picture.orientation}' if picture.orientation in EXIF_SIDEWAYS else ''
        problems.add('images and masks of different sizes',
                     f'{file.image.name}: {size[0]}x{size[1]}{turned}, {file.mask.name}: {width}x{height}')
        return None
    return ImageMaskPair(file.image, file.mask, count_values(labels), (height, width), picture.orientation != UPRIGHT)
