"""Data sets built as a config says, one by one: whether that works, and why one of them is empty."""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from io import StringIO
from typing import Any

from mmengine.registry import DATASETS

from mmparax.checks.detection_data import check_detection_data
from mmparax.config.query import (
    downloads_itself,
    find_class,
    find_missing_downloads,
    get_metainfo,
    list_dataset_paths,
    walk_datasets,
)
from mmparax.errors import UserError
from mmparax.utils.folders import count_endings, describe_endings, is_hidden, list_folders
from mmparax.utils.problems import ProblemList
from mmparax.utils.text import join_names, summarize_error

LARGE = 64 * 2**20  # bytes of an annotation file from which on building the data set takes long
UNBUILT = 'data set(s) that cannot be built'
EMPTY = 'data set(s) without images'


@dataclass
class BuiltDataset:
    """One data set of a dataloader, without the wrappers around it.

    Attributes:
        place: where it is in the config, such as ``'train_dataloader.dataset'``.
        config: its own part of the config.
        cls: its class, or None if no toolbox has it.
        dataset: the data set; None if it has problems, is large, or is still to be downloaded.
        problems: what is wrong with it.
        named: names of the classes as its config and class say, if it is not built although nothing is wrong with it.
    """
    place: str
    config: Mapping[str, Any]
    cls: type | None
    dataset: Any = None
    problems: ProblemList = field(default_factory=ProblemList)
    named: Sequence[str] | None = None

    @property
    def loader(self) -> str:
        return self.place.split('.')[0]

    @property
    def is_detection(self) -> bool:
        """Whether it is of mmdetection's kind, whose annotations have files of their own."""
        return any(base.__name__ == 'BaseDetDataset' for base in getattr(self.cls, '__mro__', ()))

    @property
    def is_segmentation(self) -> bool:
        """Whether each image has a mask of class numbers."""
        return hasattr(self.cls, 'get_label_map')

    @property
    def classes(self) -> Sequence[str] | None:
        """Names of the classes, if the data set has some."""
        return (getattr(self.dataset, 'metainfo', None) or {}).get('classes') or self.named


def build_datasets(cfg: Mapping[str, Any], loader: str, sample: int | None, large: bool = False,
                   known: dict[str, Any] | None = None) -> list[BuiltDataset]:
    """Build every data set of a dataloader; what is wrong with one is in its problems, nothing is raised.

    A wrapper is built around those that are sound, so that no sampler and no wrapper ever sees an empty one.

    Args:
        cfg: a config.
        loader: such as ``'train_dataloader'``.
        sample: images of a detection data set to read; None for all.
        large: build data sets of large annotation files, too, which takes tens of seconds.
        known: (data set, names of classes) of those that were looked at already, by the text of their configs, with None in
            the place of what is not known; what is in it is not looked at again, and new ones are added.
    """
    known = {} if known is None else known
    found = [
        BuiltDataset(place, config, find_class(DATASETS, config, cfg))
        for place, config in walk_datasets((cfg.get(loader) or {}).get('dataset'), f'{loader}.dataset')
    ]
    scope = DATASETS.switch_scope_and_registry(cfg.get('default_scope') or 'mmengine')
    with scope, redirect_stdout(StringIO()):  # pycocotools prints
        for entry in found:
            if repr(entry.config) in known:
                entry.dataset, entry.named = known[repr(entry.config)]
                continue
            if entry.is_detection:
                entry.problems.merge(check_detection_data(cfg, entry.place, entry.config, sample))
            if not entry.problems.errors:
                if _is_to_download(cfg, entry) or not large and _is_large(entry):
                    names = get_metainfo(cfg, entry.config).get('classes')
                    entry.named = names if isinstance(names, (list, tuple)) else None  # a file that is not there: its name
                else:
                    _build(entry)
            known[repr(entry.config)] = entry.dataset, entry.named
        built = {id(entry.config): entry.dataset for entry in found}
        whole = (cfg.get(loader) or {}).get('dataset')
        if found and whole is not found[0].config and all(dataset is not None for dataset in built.values()):
            _build_wrapper(whole, built, found[0])
    return found


def _is_to_download(cfg: Mapping[str, Any], entry: BuiltDataset) -> bool:
    holder = {'default_scope': cfg.get('default_scope'), entry.loader: dict(dataset=entry.config)}
    return downloads_itself(cfg, entry.config) and bool(find_missing_downloads(holder, [entry.loader]))


def _is_large(entry: BuiltDataset) -> bool:
    path = dict(list_dataset_paths(entry.config)).get('ann_file', '')
    return entry.is_detection and os.path.isfile(path) and os.path.getsize(path) > LARGE


def _build(entry: BuiltDataset) -> None:
    dataset = None
    try:
        options = dict(entry.config)
        if hasattr(entry.cls, 'full_init'):
            options['lazy_init'] = True  # an object that can be asked why it is empty
        dataset = _try_build(options, entry.config)
        _load(dataset)
    except Exception as error:  # whatever a data set raises
        if 'Found 0 files' not in str(error):  # mmpretrain's words for none
            entry.problems.add(UNBUILT, _describe_failure(entry, error))
            return
        empty = True
    else:
        empty = hasattr(dataset, '__len__') and not len(dataset)
    if empty:
        reason = explain_empty(entry, dataset)
        entry.problems.add(EMPTY, f'{entry.place}: 0 images' + (f'; {reason}' if reason else ''))
    else:
        entry.dataset = dataset


def _load(dataset: Any) -> None:
    """``full_init``, which for an empty data set would stop at putting its entries into one array."""
    serialized = getattr(dataset, 'serialize_data', False) and hasattr(dataset, '_serialize_data')
    if not serialized or getattr(dataset, '_fully_initialized', False):
        if hasattr(dataset, 'full_init'):
            dataset.full_init()
        return
    dataset.serialize_data = False
    try:
        dataset.full_init()
    finally:
        dataset.serialize_data = True
    if dataset.data_list:
        dataset.data_bytes, dataset.data_address = dataset._serialize_data()
    else:
        dataset.serialize_data = False  # so that its length can be asked for


def _try_build(options: dict[str, Any], config: Mapping[str, Any]) -> Any:
    """Build lazily if the class lets us."""
    try:
        return DATASETS.build(options)
    except TypeError as error:
        if 'lazy_init' not in str(error):
            raise
        return DATASETS.build(dict(config))


def _describe_failure(entry: BuiltDataset, error: Exception) -> str:
    if isinstance(error, UserError):
        return f'{entry.place}: {error}'
    return f'{entry.place} ({entry.config.get("type")}): {summarize_error(error)}'


def _build_wrapper(whole: Mapping[str, Any], built: Mapping[int, Any], first: BuiltDataset) -> None:
    """Build the wrappers of a dataloader around data sets that are there already."""

    def insert(config: Any) -> Any:
        if id(config) in built:
            return dict(type=partial(_give, built[id(config)]))
        if isinstance(config, Mapping):
            return {name: insert(value) if name in ('dataset', 'datasets') else value for name, value in config.items()}
        return [insert(value) for value in config] if isinstance(config, (list, tuple)) else config

    try:
        dataset = DATASETS.build(insert(whole))
        if hasattr(dataset, 'full_init'):
            dataset.full_init()
        if not len(dataset):
            first.problems.add(EMPTY, f'{first.loader}.dataset ({whole.get("type")}): 0 images of those inside it')
    except Exception as error:
        text = str(error) if isinstance(error, UserError) else summarize_error(error)
        first.problems.add(UNBUILT, f'{first.loader}.dataset ({whole.get("type")}): {text}')


def _give(dataset: Any) -> Any:
    return dataset


# ---- why there are no images ----


def explain_empty(entry: BuiltDataset, dataset: Any) -> str | None:
    """Say why a data set holds no image, as far as its options and folders tell; None if they do not."""
    config, paths = entry.config, dict(list_dataset_paths(entry.config))
    annotations = paths.get('ann_file', '')
    if os.path.isfile(annotations):
        if not os.path.getsize(annotations):
            return f'the list {annotations!r} is empty'
    elif entry.is_segmentation:
        folder, suffix = paths.get('data_prefix.img_path', paths.get('data_root', '')), dataset.img_suffix
        endings = count_endings(folder) if os.path.isdir(folder) else {}
        if not any(ending.endswith(suffix) for ending in endings):
            return f'{describe_endings(folder)}, and img_suffix={suffix!r}'
    elif hasattr(dataset, 'is_valid_file'):
        folder = next((path for name, path in paths.items() if name.startswith('data_prefix')), paths.get('data_root', ''))
        own = f'its images may end in {join_names(sorted(dataset.extensions), 9)}'
        if not os.path.isdir(folder):
            return describe_endings(folder)
        if getattr(dataset, 'with_label', True) and not [name for name in list_folders(folder) if not is_hidden(name)]:
            return f'{folder!r} has no folder, of which there must be one for each class; {describe_endings(folder)}'
        return f'{describe_endings(folder)}; {own}'
    if config.get('indices') in (0, [], ()):
        return f'indices={config["indices"]!r} leaves none'
    if config.get('filter_cfg'):
        try:
            before = len(dataset.load_data_list())
        except Exception:
            before = 0
        if before:
            return f'filter_cfg={dict(config["filter_cfg"])!r} leaves out all {before}'
    return None
