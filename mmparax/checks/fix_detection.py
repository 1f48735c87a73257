"""Corrects the annotation files that a config names, into files of their own."""
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmparax.checks.coco import check_coco
from mmparax.checks.coco_fix import check_target, fix_content, save
from mmparax.checks.detection_data import COCO, find_format
from mmparax.checks.usage import Usage, read_usage
from mmparax.config.query import find_datasets, find_metrics
from mmparax.errors import InputError, ParameterError

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def fix_datasets(cfg: Mapping[str, Any], out: str | Path) -> list[str]:
    """Write corrected copies of the COCO files of boxes and instances that need it.

    Args:
        cfg: a config.
        out: a folder; or, if one file alone needs correction, a file whose name ends in ``.json``.

    Returns:
        Sentences: what was changed, what could not be, and what to set in the config.

    Raises:
        InputError: if the config has no such file, or one that cannot be read.
        ParameterError: if there is something where a file would be written.
    """
    usages: dict[str, list[Usage]] = {}
    for usage in _list_usages(cfg):
        usages.setdefault(str(Path(usage.paths.get('ann_file', '')).resolve()), []).append(usage)
    if not usages:
        raise InputError('the config has no data set in COCO\'s format with boxes or instances, and nothing else is corrected.')
    fixed = {}
    for path, own in usages.items():
        folder = own[0].paths.get('data_prefix.img', own[0].paths.get('data_root')) if own[0].local else None
        content, changes = fix_content(path, folder)
        if changes:
            fixed[path] = content, changes
    targets = _choose_targets(list(fixed), Path(out))
    for target in targets.values():
        check_target(target)
    sentences = []
    for path, own in usages.items():
        if path in fixed:
            content, changes = fixed[path]
            save(content, targets[path])
            sentences.append(f'{path!r}: {_describe(changes)}. The corrected file is {str(targets[path])!r}.')
            places = [f'{usage.place}.ann_file' for usage in own] + _list_evaluators(cfg, path)
            sentences.append(f'  To use it set {", ".join(places)} to {str(targets[path].resolve())!r}.')
        else:
            sentences.append(f'{path!r}: nothing that can be corrected was found.')
        for usage in own:
            left = check_coco(str(targets.get(path, path)), usage, 0).errors
            sentences += [f'  Left for you ({usage.place}): {problem.summarize()}' for problem in left]
    return sentences


def _list_usages(cfg: Mapping[str, Any]) -> Iterator[Usage]:
    for loader in LOADERS:
        for dataset in find_datasets(cfg.get(loader)):
            if dataset.get('ann_file') and find_format(cfg, dataset) == COCO:
                yield read_usage(cfg, f'{loader}.dataset', dataset)


def _list_evaluators(cfg: Mapping[str, Any], path: str) -> list[str]:
    """The places of evaluators that read a file."""
    return [
        f'{place}.ann_file' for evaluator in ('val_evaluator', 'test_evaluator') for place, metric in find_metrics(cfg, evaluator)
        if metric.get('ann_file') and str(Path(metric['ann_file']).resolve()) == path
    ]


def _choose_targets(paths: list[str], out: Path) -> dict[str, Path]:
    """Where the corrected copy of each file goes; files of one name get those of their folders in front."""
    if out.suffix == '.json':
        if len(paths) > 1:
            raise ParameterError('fix', str(out), f'{len(paths)} files need correction', 'Give a folder for them.')
        return {path: out for path in paths}
    names = Counter(Path(path).name for path in paths)
    return {
        path: out / (Path(path).name if names[Path(path).name] == 1 else f'{Path(path).parent.name}_{Path(path).name}')
        for path in paths
    }


def _describe(changes: Counter[str]) -> str:
    return '; '.join(f'{count} {kind}' for kind, count in changes.items())
