"""Hidden folders beside the folders of classes, which mmpretrain takes for classes."""
import os
from collections.abc import Sequence

from mmengine.config import Config
from mmengine.registry import DATASETS

from mmparax.config.query import find_class, find_datasets, list_dataset_paths
from mmparax.utils.folders import is_hidden, list_folders
from mmparax.utils.text import join_names

REPLACED, OURS = 'CustomDataset', 'mmparax.ClassFolders'


def leave_out_hidden_folders(cfg: Config, loaders: Sequence[str]) -> list[str]:
    """Let data sets of class folders that have hidden ones among them be read by :class:`mmparax.ClassFolders`.

    Args:
        cfg: changed in place.
        loaders: such as ``['train_dataloader', 'val_dataloader']``.

    Returns:
        A sentence for each folder of a data set that was concerned.
    """
    sentences: dict[str, None] = {}
    for loader in loaders:
        for dataset in find_datasets(cfg.get(loader)):
            cls, paths = find_class(DATASETS, dataset, cfg), dict(list_dataset_paths(dataset))
            if getattr(cls, '__name__', '') != REPLACED or 'ann_file' in paths or not dataset.get('with_label', True):
                continue
            folder = next((path for name, path in paths.items() if name.startswith('data_prefix')), paths.get('data_root', ''))
            hidden = [name for name in list_folders(folder) if is_hidden(name)] if os.path.isdir(folder) else []
            if hidden:
                dataset['type'] = OURS
                dataset.pop('with_label', None)
                sentences[f'{folder!r} holds {join_names(map(repr, hidden))}, which is no class: {loader}.dataset is read by '
                          f'{OURS}, which leaves hidden folders out.'] = None
    return list(sentences)
