"""Whether the data that a config names are there and have its classes, seen before anything is built."""
import json
import mmap
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS

from mmparax.config.query import downloads_itself, find_class, find_datasets, find_metrics, get_metainfo, list_dataset_paths
from mmparax.errors import InputError, MissingFileError, ParameterError
from mmparax.utils.folders import is_hidden, list_folders
from mmparax.utils.text import summarize_names

FILES_OF_EVALUATORS = ('ann_file', 'seg_prefix')
CATEGORIES = b'"categories"'


def check_datasets(cfg: Config, loaders: Sequence[str]) -> None:
    """Check the data sets of some dataloaders and the files of their evaluators.

    Args:
        cfg: a config.
        loaders: such as ``['train_dataloader', 'val_dataloader']``.

    Raises:
        MissingFileError: naming the first folder or annotation file that is absent.
        InputError: if the names of the classes are not those of the data.
    """
    for loader in loaders:
        place, datasets = f'{loader}.dataset', list(find_datasets(cfg.get(loader)))
        for dataset in datasets:
            if not downloads_itself(cfg, dataset):
                for parameter, path in list_dataset_paths(dataset):
                    _check_exists(path, f'{place}.{parameter}', f'{place}.data_root')
            check_class_names(cfg, place, dataset)
        evaluator = loader.replace('dataloader', 'evaluator')
        for name, metric in find_metrics(cfg, evaluator):
            for parameter in FILES_OF_EVALUATORS:
                path = metric.get(parameter)
                if path and isinstance(path, str):
                    _check_exists(path, f'{name}.{parameter}', f'{name}.{parameter}')
                    if parameter == 'ann_file' and datasets:
                        check_class_names(cfg, place, {**datasets[0], 'data_root': '', 'ann_file': path})


def _check_exists(path: str, parameter: str, remedy: str) -> None:
    if '://' not in path and not os.path.exists(path):
        raise MissingFileError(f'{parameter}={path!r} does not exist (looked in {os.getcwd()!r}). Put the data there or set '
                               f'{remedy}; docs/datasets.md shows the layouts.')


# ---- names of classes ----


def check_class_names(cfg: Mapping[str, Any], place: str, dataset: Mapping[str, Any]) -> None:
    """Check that the classes of a data set are those of its annotation file, folders or label maps.

    Args:
        cfg: the config that it is in.
        place: where it is there, for the errors.
        dataset: its own config.

    Raises:
        InputError: naming the classes that do not match.
    """
    cls, classes = find_class(DATASETS, dataset, cfg), get_metainfo(cfg, dataset).get('classes')
    if isinstance(classes, str):
        raise ParameterError(f'{place}.metainfo.classes', classes, 'it must be a sequence of names',
                             f"For one class write ('{classes}', ), with the comma.")
    if not classes:
        return
    twice = sorted({name for name in classes if list(classes).count(name) > 1}) if len(set(classes)) < len(classes) else []
    if twice:
        raise ParameterError(f'{place}.metainfo.classes', classes, f'{_list_names(twice)} stand in it more than once',
                             'Give each class a name of its own.')
    paths, own = dict(list_dataset_paths(dataset)), getattr(cls, 'METAINFO', {}).get('classes')
    # Subclasses that read their files in another way may number their classes in another way.
    if getattr(getattr(cls, 'load_data_list', None), '__qualname__', '') == 'CocoDataset.load_data_list':
        if os.path.isfile(paths.get('ann_file', '')):
            _check_categories(place, classes, paths['ann_file'], panoptic='Panoptic' in cls.__name__)
    elif hasattr(cls, 'get_label_map'):
        unknown = [name for name in classes if own and name not in own]
        if unknown:
            raise InputError(f'{place}.metainfo.classes has {_list_names(unknown)}, which {cls.__name__}, whose label maps hold '
                             "classes of its own, has not. Use type='BaseSegDataset' for other classes.")
    elif hasattr(cls, 'is_valid_file') and not own and 'ann_file' not in paths and dataset.get('with_label', True):
        folder = [*(path for name, path in paths.items() if name.startswith('data_prefix')), paths.get('data_root', '')][0]
        if os.path.isdir(folder):
            _check_folders(place, classes, folder, cls.__name__ == 'ClassFolders')


def _check_categories(place: str, classes: Sequence[str], path: str, panoptic: bool) -> None:
    found = read_categories(path)
    remedy = f'Set {place}.metainfo=dict(classes=...) to the names in the file.'
    missing = [name for name in classes if name not in found]
    if missing:
        raise InputError(f'{place}.metainfo.classes has {_list_names(missing)}, which the annotation file {path!r} has not; it '
                         f'has {_list_names(found)}. {remedy}')
    extra = [name for name in found if name not in classes]
    if panoptic and extra:
        raise InputError(f'the annotation file {path!r} has {_list_names(extra)}, which {place}.metainfo.classes has not, and '
                         f'panoptic maps need every class. {remedy}')
    # mmdetection numbers the classes in the order of the file and names them in the order of the config.
    wrong = [(own, name) for own, name in zip([name for name in found if name in classes], classes) if own != name]
    if wrong:
        raise InputError(f'{place}.metainfo.classes has another order than the annotation file {path!r}: what is '
                         f'{wrong[0][0]!r} in the file would be called {wrong[0][1]!r}. {remedy}')


def read_categories(path: str) -> list[str]:
    """Read the names of the categories of an annotation file in COCO's format; the annotations, often 500 MB, are not parsed.

    Raises:
        InputError: if it has none.
    """
    if os.path.getsize(path):
        with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            start = text.rfind(CATEGORIES)
            while start >= 0:
                entries = _parse_list(text, start + len(CATEGORIES))
                if entries and all(isinstance(entry, dict) and 'name' in entry for entry in entries):
                    return [entry['name'] for entry in entries]
                start = text.rfind(CATEGORIES, 0, start)
    raise InputError(f'the annotation file {path!r} has no list "categories" with names, as files in COCO\'s format have.')


def _parse_list(text: mmap.mmap, position: int) -> list[Any]:
    """Parse the JSON list that follows a key; an empty one if something else does."""
    start = text.find(b'[', position)
    if start < 0 or text[position:min(start, position + 100)].strip() != b':':
        return []
    size = 1 << 16
    while True:
        try:
            return json.JSONDecoder().raw_decode(text[start:start + size].decode(errors='ignore'))[0]
        except ValueError:
            if start + size >= len(text):
                return []
            size *= 4


def _check_folders(place: str, classes: Sequence[str], folder: str, by_name: bool) -> None:
    found = [name for name in list_folders(folder) if not is_hidden(name)]
    remedy = f'Set {place}.metainfo=dict(classes=...) to the names of the folders in their order, or leave it out.'
    lacking = [name for name in classes if name not in found]
    if lacking and set(found) < set(classes):
        if by_name:
            return
        raise InputError(
            f'{place}.metainfo.classes has {_list_names(classes)}, and {folder!r} has {_list_names(found)} as folders, '
            f'of which there must be one for each class: {_list_names(lacking)} have none. Use type='
            "'mmparax.ClassFolders', where a folder may be missing, or make an empty one for each of them.")
    if len(found) != len(classes):
        raise InputError(f'{place}.metainfo.classes has {_list_names(classes)}, and {folder!r} has {_list_names(found)} as '
                         f'folders, of which there must be one for each class. {remedy}')
    # Folders may have other names than their classes, numbers say; if some are the same, all must be.
    wrong = [(name, own) for name, own in zip(found, classes) if name != own]
    if wrong and set(found) & set(classes):
        raise InputError(f'{place}.metainfo.classes does not match the folders in {folder!r}: the images in '
                         f'{wrong[0][0]!r} would be called {wrong[0][1]!r}. {remedy}')


def _list_names(names: Sequence[str]) -> str:
    return summarize_names([repr(name) for name in names])
