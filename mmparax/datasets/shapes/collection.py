"""All shapes of a labelling tool's export, checked."""
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmparax.datasets.shapes.cvat import read_cvat
from mmparax.datasets.shapes.labelme import read_labelme
from mmparax.datasets.shapes.shapes import ShapeImage
from mmparax.errors import InputError, MissingFileError, ParameterError
from mmparax.utils.images import IMAGE_ENDINGS
from mmparax.utils.problems import ProblemList
from mmparax.utils.text import join_names

# LabelMe's own names in its lists of labels.
LABELME_BACKGROUND, LABELME_IGNORED = '_background_', '__ignore__'


@dataclass
class ShapeSet:
    """What :func:`read_shapes` found.

    Attributes:
        images: with their shapes.
        classes: labels that are classes, in their order.
        ignored: labels that are not to be learnt.
        unlabelled: number of images beside the files that have no file.
    """
    images: list[ShapeImage]
    classes: list[str]
    ignored: list[str] = field(default_factory=list)
    unlabelled: int = 0

    def count(self, label: str) -> tuple[int, int]:
        """(number of shapes, number of images with one) of a label."""
        numbers = [sum(shape.label == label for shape in image.shapes) for image in self.images]
        return sum(numbers), sum(number > 0 for number in numbers)


def read_shapes(source: str | Path, image_dir: str | Path | None = None, classes: Sequence[str] | None = None,
                ignore: Sequence[str] = (), skip: Collection[str] = (), clip: bool = False) -> ShapeSet:
    """Read and check what a labelling tool has written.

    Args:
        source: a folder of LabelMe's JSON files, or CVAT's ``annotations.xml`` ("CVAT for images"), or the folder with it.
        image_dir: folder of the images, if they are not where the annotations say.
        classes: labels in the order that they are to have; by default CVAT's own order, or the alphabet's.
        ignore: labels that are not to be learnt; LabelMe's ``__ignore__`` is always one.
        skip: kinds of shapes to leave out, such as ``'polyline'``.
        clip: points outside the image are cut off at its border instead of refused.

    Raises:
        MissingFileError: if there is no such folder or file.
        InputError: if it is something else, or listing every file and shape that cannot be used.
    """
    source = Path(source)
    for name, path in (('source', source), ('image_dir', image_dir)):
        if path is not None and not Path(path).exists():
            raise MissingFileError(f'{name}: {str(path)!r} does not exist.')
    for name, given in (('classes', classes), ('ignore', ignore)):
        if given is not None and len(set(given)) != len(given):
            raise ParameterError(name, list(given), 'nothing may be in it twice')
    problems, labels, unlabelled = ProblemList(), None, 0
    file = source / 'annotations.xml' if (source / 'annotations.xml').is_file() else source
    if file.suffix.lower() == '.zip':
        raise InputError(f'{str(source)!r} is packed: unpack it, and give the folder.')
    if file.is_file():
        found, labels = read_cvat(file, image_dir, skip, clip, problems)
    else:
        found = read_labelme(source, image_dir, skip, clip, problems)
        unlabelled = _count_unlabelled(source if image_dir is None else Path(image_dir), found)
    for target, count in Counter(image.name for image in found).items():
        if count > 1:
            problems.add('names that several images have', '/'.join(filter(None, target)) + f' ({count})')
    special = (LABELME_BACKGROUND, LABELME_IGNORED)
    seen = {shape.label for image in found for shape in image.shapes} - set(special)
    chosen = [label for label in classes if label not in special] if classes is not None else \
        [label for label in labels or () if label in seen] + sorted(seen - set(labels or ()))
    chosen = [label for label in chosen if label not in ignore]
    for label in sorted(seen - {*chosen, *ignore}):
        problems.add(
            'labels that are no class', f'{label!r} in {sum(any(s.label == label for s in i.shapes) for i in found)} '
            'image(s)', f'The classes are {join_names(chosen, 40)}. Name others too, or leave them out: '
            f'ignore={sorted(seen - set(chosen))!r}.')
    for label in ignore:
        if label not in {*seen, *(labels or ()), *special}:
            problems.add('labels to ignore that are in no file', repr(label))
    problems.raise_errors(f'in {str(source)!r}; nothing was written')
    if not found:
        raise InputError(f'{str(source)!r} holds no annotations: neither JSON files of LabelMe nor the annotations.xml of CVAT.')
    if not chosen:
        raise InputError(f'{str(source)!r} holds no shape of a class.')
    return ShapeSet(found, chosen, [*ignore, LABELME_IGNORED], unlabelled)


def _count_unlabelled(folder: Path, found: Sequence[ShapeImage]) -> int:
    used = {image.file.resolve() for image in found}
    return sum(path.suffix.lower() in IMAGE_ENDINGS and path.resolve() not in used for path in folder.rglob('[!.]*'))
