"""Asks a config about its model, data sets and evaluators; builds nothing."""
import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, Registry

from mmparax.utils.names import join_name
from mmparax.utils.signatures import get_keyword_defaults


def get_model_config(cfg: Config) -> dict[str, Any]:
    """A copy of the model's config, with the data preprocessor of the config's top level, as mmengine's runner builds it."""
    model = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return model


def make_model_without_base(cfg: Config) -> dict[str, Any]:
    """:func:`get_model_config` that looks for no base checkpoint: to count parameters, for example."""
    model = get_model_config(cfg)
    for _, part in walk_configs(model):
        if 'base_checkpoint' in part:
            part.update(base_checkpoint=None, allow_random_base=True)
    return model


def walk_configs(config: Any, path: str = '') -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, config) of every dict in a model's config; the paths are those of the modules."""
    if isinstance(config, dict):
        yield path, config
    items = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, (list, tuple)) else ()
    for name, value in items:
        yield from walk_configs(value, join_name(path, str(name)))


def find_datasets(loader: Any) -> Iterator[dict[str, Any]]:
    """Yield the data set configs of a dataloader's config, those inside wrappers too."""
    if isinstance(loader, dict):
        yield from (dataset for _, dataset in walk_datasets(loader.get('dataset'), ''))


def walk_datasets(dataset: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, config) of the data sets inside wrappers, or of this one if it is no wrapper."""
    if not isinstance(dataset, dict):
        return
    for name in ('dataset', 'datasets'):
        inner = dataset.get(name)
        if isinstance(inner, (list, tuple)) and inner:
            for number, part in enumerate(inner):
                yield from walk_datasets(part, f'{place}.{name}.{number}')
            return
        if inner:
            yield from walk_datasets(inner, f'{place}.{name}')
            return
    yield place, dataset


def walk_transforms(pipeline: Any) -> Iterator[dict[str, Any]]:
    """Yield the config of every transform of a pipeline, those inside others too."""
    yield from (step for _, step in walk_configs(list(pipeline or [])) if step.get('type') is not None)


def find_metrics(cfg: Mapping[str, Any], evaluator: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place in the config, config) of the metrics of an evaluator, which is one or a list."""
    found = cfg.get(evaluator)
    if isinstance(found, dict):
        yield evaluator, found
    elif isinstance(found, Sequence):
        yield from ((f'{evaluator}.{number}', metric) for number, metric in enumerate(found) if isinstance(metric, dict))


def list_dataset_paths(dataset: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (parameter, path) of every file and folder that a data set config names."""
    root = dataset.get('data_root')
    root = root if isinstance(root, str) else ''
    if root:
        yield 'data_root', root
    prefixes = dataset.get('data_prefix') or {}
    prefixes = prefixes if isinstance(prefixes, Mapping) else {'': prefixes}
    for name, path in prefixes.items():
        if isinstance(path, str) and path:
            yield join_name('data_prefix', name), os.path.join(root, path)
    annotations = dataset.get('ann_file')
    if isinstance(annotations, str) and annotations:
        yield 'ann_file', os.path.join(root, annotations)


def find_class(registry: Registry, config: Mapping[str, Any], cfg: Mapping[str, Any]) -> type | None:
    """The class that a part of a config asks for, or None if no toolbox has it.

    Args:
        registry: mmengine's of this kind.
        config: the part, with ``type``.
        cfg: the whole config, with ``default_scope``.
    """
    kind = config.get('type')
    if not isinstance(kind, str):
        return kind
    with registry.switch_scope_and_registry(config.get('_scope_') or cfg.get('default_scope')) as own:
        return own.get(kind)


def downloads_itself(cfg: Mapping[str, Any], dataset: Mapping[str, Any]) -> bool:
    """Whether a data set fetches what is not there."""
    cls = find_class(DATASETS, dataset, cfg)
    return cls is not None and bool(dataset.get('download', get_keyword_defaults(cls).get('download', False)))


def find_missing_downloads(cfg: Mapping[str, Any], loaders: Sequence[str]) -> list[str]:
    """The folders of data sets that will download themselves, which they have not done yet."""
    roots = [
        dataset.get('data_root') or '' for loader in loaders for dataset in find_datasets(cfg.get(loader))
        if downloads_itself(cfg, dataset)
    ]
    return sorted({root for root in roots if not (os.path.isdir(root) and os.listdir(root))})


def get_metainfo(cfg: Mapping[str, Any], dataset: Mapping[str, Any]) -> dict[str, Any]:
    """The names of classes, palette and so on that a data set has, as far as its config and class say."""
    given, cls = dict(dataset.get('metainfo') or {}), find_class(DATASETS, dataset, cfg)
    if dataset.get('classes') is not None:  # mmpretrain's older argument
        given.setdefault('classes', dataset['classes'])
    load = getattr(cls, '_load_metainfo', None)  # of mmengine's data sets
    return load(given) if load else given
