"""Corrects the annotation files that a config names, into files of their own."""
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmparax.checks.coco_fix import check_target, fix_content, save
from mmparax.checks.detection_data import COCO, PANOPTIC, check_detection_data, find_format
from mmparax.config.query import find_datasets, find_metrics, list_dataset_paths
from mmparax.errors import InputError, ParameterError
from mmparax.utils.choices import LOADERS

Dataset = tuple[str, Mapping[str, Any]]  # the place of a data set in the config, and its own config


def fix_datasets(cfg: Mapping[str, Any], out: str | Path) -> tuple[list[str], int]:
    """Write corrected copies of the annotation files in COCO's format that need it.

    Args:
        cfg: a config.
        out: a folder; or, if one file alone needs correction, a file whose name ends in ``.json``.

    Returns:
        (sentences, errors): what was changed, what to set in the config, and what is left; the number of problems that are left.

    Raises:
        InputError: if the config has no such file, or one that cannot be read.
        ParameterError: if there is something where a file would be written.
    """
    files = _find_files(cfg)
    if not files:
        raise InputError("the config has no data set in COCO's format, and nothing else is corrected.")
    fixed = {}
    for path, datasets in files.items():
        content, changes = fix_content(path, _find_images(datasets))
        if changes:
            fixed[path] = content, changes
    targets = _choose_targets(list(fixed), Path(out))
    for target in targets.values():
        check_target(target)
    sentences, errors = [], 0
    for path, datasets in files.items():
        if path in fixed:
            content, changes = fixed[path]
            save(content, targets[path])
            sentences.append(f'{path!r}: {_describe(changes)}. The corrected copy is {str(targets[path])!r}.')
            places = [f'{place}.ann_file' for place, _ in datasets] + _find_evaluators(cfg, path)
            sentences.append(f'  To use it set {", ".join(places)} to {str(targets[path].resolve())!r}.')
        else:
            sentences.append(f'{path!r}: nothing that can be corrected.')
        for place, dataset in datasets:
            now = {**dataset, 'ann_file': str(targets[path].resolve() if path in fixed else path)}
            left = check_detection_data(cfg, place, now, 0).errors
            errors += sum(problem.count for problem in left)
            sentences += [f'  Left in {place}: {problem.summarize()}' for problem in left]
    return sentences, errors


def _find_files(cfg: Mapping[str, Any]) -> dict[str, list[Dataset]]:
    """The annotation files of a config, with the data sets that read each."""
    files: dict[str, list[Dataset]] = {}
    for loader in LOADERS:
        for dataset in find_datasets(cfg.get(loader)):
            path = dict(list_dataset_paths(dataset)).get('ann_file')
            if path and '://' not in path and find_format(cfg, dataset) in (COCO, PANOPTIC):
                files.setdefault(str(Path(path).resolve()), []).append((f'{loader}.dataset', dataset))
    return files


def _find_images(datasets: Sequence[Dataset]) -> str | None:
    """The folder in which the names of the images begin, if it is on this machine."""
    _, dataset = datasets[0]
    paths = dict(list_dataset_paths(dataset))
    return None if dataset.get('backend_args') else paths.get('data_prefix.img', paths.get('data_root'))


def _find_evaluators(cfg: Mapping[str, Any], path: str) -> list[str]:
    """The options of evaluators that name a file."""
    return [
        f'{place}.ann_file' for evaluator in ('val_evaluator', 'test_evaluator')
        for place, metric in find_metrics(cfg, evaluator)
        if metric.get('ann_file') and str(Path(metric['ann_file']).resolve()) == path
    ]


def _choose_targets(paths: list[str], out: Path) -> dict[str, Path]:
    """Where the corrected copy of each file goes; files of one name get those of their folders in front."""
    if out.suffix == '.json':
        if len(paths) > 1:
            raise ParameterError('fix', str(out), f'{len(paths)} files need correction', 'Give a folder for them.')
        return dict.fromkeys(paths, out)
    names = Counter(Path(path).name for path in paths)
    return {
        path: out / (Path(path).name if names[Path(path).name] == 1 else f'{Path(path).parent.name}_{Path(path).name}')
        for path in paths
    }


def _describe(changes: Counter[str]) -> str:
    return '; '.join(f'{count} {kind}' for kind, count in changes.items())
