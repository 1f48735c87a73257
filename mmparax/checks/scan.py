"""Looks at the data of a run as its config has them: every file by name, a sample of the images and masks pixel by pixel."""
from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from mmparax.checks.agreement import compare_datasets, compare_evaluators, compare_with_checkpoint
from mmparax.checks.built import BuiltDataset, build_datasets
from mmparax.checks.ignored import find_ignored_values, judge_ignored
from mmparax.checks.images import ImageFacts
from mmparax.checks.masks import Labels, MaskFacts, is_in_doubt, judge_masks
from mmparax.checks.pipelines import find_image_loader, find_mask_loading, leaves_out_unreadable
from mmparax.checks.reading import FileFacts, Task, read_files
from mmparax.errors import InputError
from mmparax.utils.choices import SAMPLE
from mmparax.utils.folders import FileIndex, count_endings, is_hidden
from mmparax.utils.images import EXIF_SIDEWAYS, UPRIGHT
from mmparax.utils.problems import ProblemList
from mmparax.utils.spread import spread

TOGETHER = 'all data sets'
MOST_MASKS = 10_000  # that are read if those of the sample leave doubts
MOST_LISTED = 20_000  # files of a list of images with labels that are looked for before training


@dataclass
class ScannedDataset:
    """What was found in one data set.

    Attributes:
        place: where it is in the config, or :data:`TOGETHER`.
        images: number of images; None if it could not be built.
        read: how many of them, or of their masks, were read.
        classes: names of its classes.
        unit: what ``counts`` counts: ``'pixels'``, ``'boxes'`` or ``'images'``.
        counts: number of them for each class.
        ignored: number of ignored pixels or boxes.
        problems: errors and warnings.
    """
    place: str
    images: int | None = None
    read: int = 0
    classes: list[str] = field(default_factory=list)
    unit: str = ''
    counts: dict[str, int] = field(default_factory=dict)
    ignored: int = 0
    problems: ProblemList = field(default_factory=ProblemList)

    def to_json(self) -> dict[str, Any]:
        """As plain lists and dicts."""
        return {**vars(self), 'problems': self.problems.to_json()}


def check_data(cfg: Config, loaders: Sequence[str], sample: int | None = SAMPLE) -> list[str]:
    """Check the data of a run.

    Args:
        cfg: a config.
        loaders: such as ``['train_dataloader', 'val_dataloader']``; those that the config has not are left out.
        sample: images of each data set to read; None for all.

    Returns:
        Warnings, a sentence each.

    Raises:
        InputError: listing what training could not run on, or would learn nothing from.
    """
    scanned = scan_datasets(cfg, loaders, sample)
    raise_errors(scanned)
    return [sentence for entry in scanned for sentence in summarize(entry, warnings=True)]


def raise_errors(scanned: Sequence[ScannedDataset]) -> None:
    """Raise InputError if a data set has problems that are not only warnings."""
    errors = [sentence for entry in scanned for sentence in summarize(entry, warnings=False)]
    if errors:
        raise InputError(' '.join(errors))


def summarize(entry: ScannedDataset, warnings: bool) -> list[str]:
    """The errors, or the warnings, of a data set, a sentence each that begins with its place."""
    found = entry.problems.warnings if warnings else entry.problems.errors
    start = '' if entry.place == TOGETHER else f'{entry.place}: '
    return [start + problem.summarize() for problem in found]


def scan_datasets(cfg: Config, loaders: Sequence[str], sample: int | None = SAMPLE, workers: int = 0,
                  cache: str | Path | None = None, progress: bool = False, full: bool = False) -> list[ScannedDataset]:
    """Scan data sets as they are configured.

    Args:
        cfg: a config.
        loaders: such as ``['train_dataloader', 'val_dataloader']``.
        sample: images of each data set to read, evenly spread; None for all.
        workers: processes that read; 0 for as many as the number of files makes useful.
        cache: a file of what was read before; what is in it, and has not changed since, is not read again.
        progress: show a progress bar.
        full: build data sets of large annotation files, too, and count all boxes and labels.

    Returns:
        A result for each data set, and one for what concerns several, whose place is :data:`TOGETHER`.
    """
    found: list[ScannedDataset] = []
    datasets: list[BuiltDataset] = []
    known: dict[str, Any] = {}
    judged = set()  # tests are often on the validation data
    for loader in loaders:
        for built in build_datasets(cfg, loader, sample, full, known):
            datasets.append(built)
            key = repr((built.config, find_ignored_values(cfg, loader), loader.startswith('train')))
            if key in judged:
                continue
            judged.add(key)
            result = ScannedDataset(built.place, problems=built.problems)
            found.append(result)
            if built.dataset is not None:
                _scan(cfg, built, result, sample, workers, cache, progress, full)
    together = ScannedDataset(TOGETHER)
    together.problems.merge(compare_datasets(datasets))
    together.problems.merge(compare_evaluators(cfg, loaders))
    classes = next((entry.classes for entry in datasets if entry.classes and entry.loader.startswith('train')), None)
    together.problems.merge(compare_with_checkpoint(cfg, classes))
    return [*found, together] if together.problems else found


def _scan(cfg: Config, built: BuiltDataset, result: ScannedDataset, sample: int | None, workers: int, cache: str | Path | None,
          progress: bool, full: bool) -> None:
    dataset = built.dataset
    result.images = len(dataset) if hasattr(dataset, '__len__') else None
    result.classes = list(map(str, built.classes or ()))
    if not hasattr(dataset, 'get_data_info'):
        return
    loading = find_mask_loading(dataset) if built.is_segmentation else None
    most = None if sample is None or full or built.is_segmentation else MOST_LISTED if _is_listed(built) else sample
    samples = list(_list_samples(dataset, masks=loading is not None, most=most))
    if not built.is_detection:
        _count_labels(samples, result)
    elif full:
        _count_boxes(dataset, result)
    found = _leave_out_missing(built, result, samples)
    chosen = [found[number] for number in spread(len(found), sample)]
    image_loader, mask_loader = find_image_loader(dataset), loading.loader if loading is not None else None
    tasks = [Task(entry.image, entry.mask, image_loader, mask_loader) for entry in chosen]
    facts = read_files(tasks, workers, cache, f'{built.place}' if progress else None)
    result.read = len(facts)
    _judge_images(result.problems, chosen, facts, leaves_out_unreadable(dataset))
    if loading is not None:
        masks = {entry.mask: fact.mask for entry, fact in zip(chosen, facts) if fact.mask is not None and entry.mask}
        labels = Labels(result.classes, frozenset(find_ignored_values(cfg, built.loader)), loading.reduce_zero_label,
                        getattr(dataset, 'label_map', None))
        if result.classes:
            others = [entry.mask for entry in found if entry.mask is not None and entry.mask not in masks]
            whole, training = len(found) == result.images, built.loader.startswith('train')
            judged = judge_masks(masks, labels, whole and not others, training)
            while masks and is_in_doubt(judged) and others and len(masks) < MOST_MASKS:
                more = [others[number] for number in spread(len(others), len(masks))]
                read = read_files([Task(mask, mask, None, loading.loader) for mask in more], workers, cache)
                masks.update((mask, fact.mask) for mask, fact in zip(more, read) if fact.mask is not None)
                others = [mask for mask in others if mask not in masks]
                judged = judge_masks(masks, labels, whole and not others, training)
            result.read = max(result.read, len(masks))
            result.problems.merge(judged)
            result.problems.merge(judge_ignored(cfg, built.loader, result.classes))
            _count_pixels(masks.values(), labels, result)
    _look_for_other_suffixes(built, result)


# ---- which files ----


@dataclass
class _Sample:
    image: str
    mask: str | None
    label: Any


def _list_samples(dataset: Any, masks: bool, most: int | None) -> Iterator[_Sample]:
    """The files of a data set, or ``most`` of them; of one whose images were found in folders, a sample is enough."""
    for index in spread(len(dataset), most):
        info = dataset.get_data_info(index)
        image = info.get('img_path')
        if isinstance(image, str) and '://' not in image:
            mask = info.get('seg_map_path') if masks else None
            yield _Sample(image, mask if isinstance(mask, str) else None, info.get('gt_label'))


def _is_listed(built: BuiltDataset) -> bool:
    """Whether the names of the files come from a list or belong to masks, so that each must be looked for here."""
    if built.is_detection:  # looked for with its annotations
        return False
    return built.is_segmentation or bool(built.config.get('ann_file')) or not hasattr(built.dataset, 'is_valid_file')


def _leave_out_missing(built: BuiltDataset, result: ScannedDataset, samples: list[_Sample]) -> list[_Sample]:
    """Add what does not exist to the problems; return the others."""
    index, problems = FileIndex(), result.problems
    missing = set(index.find_missing(entry.image for entry in samples))
    suffix, listed = getattr(built.dataset, 'img_suffix', ''), getattr(built.dataset, 'ann_file', '')
    for image in sorted(missing):
        remedy = ''
        if suffix and image.endswith(suffix * 2):
            remedy = f'The list {listed!r} has names with {suffix!r}: write them without, as img_suffix adds it.'
        elif suffix and os.path.basename(image) == suffix:
            remedy = f'The list {listed!r} has an empty line.'
        problems.add('image files that do not exist', _describe_missing(index, image), remedy)
    root = getattr(built.dataset, 'data_root', '') or ''
    start = os.path.join(os.path.abspath(root), '') if root else ''
    hidden = {entry.image for entry in samples if _is_below_hidden(entry.image, start)}
    for image in sorted(hidden - missing):
        problems.add('image files in hidden folders, which are read, too', image, "Delete the folder" +
                     ('' if built.is_segmentation else " or use type='mmparax.ClassFolders'") + '.', warning=True)
    masks = [entry.mask for entry in samples if entry.mask is not None]
    lacking = set(index.find_missing(masks))
    for mask in sorted(lacking):
        problems.add('mask files that do not exist', _describe_missing(index, mask),
                     f'Each image needs a mask of its name that ends in {built.dataset.seg_map_suffix!r} (seg_map_suffix).')
    return [entry for entry in samples if entry.image not in missing and entry.mask not in lacking]


def _describe_missing(index: FileIndex, path: str) -> str:
    found = index.suggest(path)
    return path + (f' ({found})' if found else '')


def _is_below_hidden(path: str, root: str) -> bool:
    """Whether a file is in a hidden folder of a root, which is absolute and ends in a separator, or ''."""
    path = os.path.abspath(path) if root else path
    return any(is_hidden(part) and part not in ('.', '..') for part in os.path.dirname(path.removeprefix(root)).split(os.sep))


def _look_for_other_suffixes(built: BuiltDataset, result: ScannedDataset) -> None:
    """Images of another suffix in the folder of a data set are silently left out."""
    if not built.is_segmentation or built.config.get('ann_file') or 'indices' in built.config:
        return
    folder, suffix = built.dataset.data_prefix.get('img_path'), built.dataset.img_suffix
    if not isinstance(folder, str) or not os.path.isdir(folder):
        return
    own = f'.{suffix.rpartition(".")[2]}'
    for ending, number in count_endings(folder).items():
        if ending != own and ending.lower() in (own.lower(), *_ALIKE.get(own.lower(), ())):
            result.problems.add('ending(s) of images that img_suffix leaves out',
                                f'{number} file(s) in {folder!r} end in {ending}, and img_suffix={suffix!r}',
                                'Rename them if they are meant to be used.', warning=True)


_ALIKE = {'.jpg': ('.jpeg', ), '.jpeg': ('.jpg', ), '.tif': ('.tiff', ), '.tiff': ('.tif', )}

# ---- what was read ----


def _judge_images(problems: ProblemList, chosen: Sequence[_Sample], facts: Sequence[FileFacts], left_out: bool) -> None:
    for entry, fact in zip(chosen, facts):
        image, mask = fact.image, fact.mask
        if image is None:
            continue
        if image.error:
            problems.add('images that cannot be read' + (' and are left out' if left_out else ''),
                         f'{entry.image}: {image.error}', 'Copy the files anew, or remove them.', warning=left_out)
            continue
        if image.damage:
            problems.add('images that are damaged and read all the same', f'{entry.image}: {image.damage}',
                         'What is missing is filled in. Copy the files anew.', warning=True)
        size = (image.width, image.height)
        if mask is None or mask.error or mask.width is None:
            continue
        if (mask.width, mask.height) != size:
            problems.add(
                'images and masks of different sizes',
                f'{entry.image}: {size[0]}x{size[1]}{_describe_turn(image)}, {entry.mask}: {mask.width}x{mask.height}',
                'A turned image needs a mask that is turned, too: store the image upright.'
                if image.turned else 'Make each mask the size of its image.')
        elif image.orientation not in (UPRIGHT, 0) and (image.width == image.height or image.orientation not in EXIF_SIDEWAYS):
            problems.add('images that are turned by their EXIF orientation', f'{entry.image}: {image.orientation}',
                         'Their masks are taken as they are: make sure that they belong to the upright image.', warning=True)


def _describe_turn(image: ImageFacts) -> str:
    return f', turned by its EXIF orientation {image.orientation}' if image.turned else ''


def _count_pixels(masks: Any, labels: Labels, result: ScannedDataset) -> None:
    pixels: Counter[int] = Counter()
    for facts in masks:
        if isinstance(facts, MaskFacts):
            pixels.update(facts.pixels)
    result.unit = 'pixels'
    result.counts = dict.fromkeys(result.classes, 0)
    for value, count in pixels.items():
        if labels.is_class(value):
            result.counts[result.classes[labels.number(value)]] += count
        elif labels.is_ignored(value):
            result.ignored += count


def _count_labels(samples: Sequence[_Sample], result: ScannedDataset) -> None:
    labels = [int(entry.label) for entry in samples if isinstance(entry.label, (int, np.integer))]
    if not labels or not result.classes:
        return
    result.unit, result.counts = 'images', dict.fromkeys(result.classes, 0)
    wrong = Counter(label for label in labels if not 0 <= label < len(result.classes))
    for label, number in sorted(wrong.items()):
        result.problems.add('label(s) that are no class', f'{label} of {number} image(s); the classes are 0 to '
                            f'{len(result.classes) - 1}')
    for label, number in Counter(labels).items():
        if label not in wrong:
            result.counts[result.classes[label]] += number


def _count_boxes(dataset: Any, result: ScannedDataset) -> None:
    result.unit, result.counts = 'boxes', dict.fromkeys(result.classes, 0)
    for index in range(len(dataset)):
        for instance in dataset.get_data_info(index).get('instances') or ():
            label = instance.get('bbox_label', -1)
            if instance.get('ignore_flag') or not 0 <= label < len(result.classes):
                result.ignored += 1
            else:
                result.counts[result.classes[label]] += 1
