"""A folder for each class, where hidden folders are no class and a split may lack one."""
import os
from typing import Any

from mmparax.errors import InputError, MissingFileError
from mmparax.registry import DATASETS
from mmparax.utils.folders import is_hidden, list_folders
from mmparax.utils.toolboxes import require

require('mmpretrain')

from mmpretrain.datasets import CustomDataset  # noqa: E402


@DATASETS.register_module()
class ClassFolders(CustomDataset):
    """mmpretrain's ``CustomDataset`` without an annotation file, that numbers classes by the names of their folders.

    Hidden folders, and those that programs leave behind (``.ipynb_checkpoints``, ``__MACOSX``), are no classes, and their
    files no images. With ``metainfo=dict(classes=...)`` that names the folders, a folder may be missing, as a small validation
    set may lack a class, and the others keep their numbers.

    Args:
        **kwargs: those of mmpretrain's ``CustomDataset`` but ``ann_file`` and ``with_label``.

    Raises:
        InputError: if the classes are not the folders.
        MissingFileError: if there is no image.
    """

    def __init__(self, **kwargs: Any):
        for name in ('ann_file', 'with_label'):
            if kwargs.pop(name, None) not in (None, '', True):
                raise InputError(f"{name} is no option of ClassFolders, whose folders are the classes: use type='CustomDataset'.")
        super().__init__(**kwargs)

    def _find_samples(self) -> list[tuple[str, int]]:
        """(path below the folder of the data set, number of the class) of every image."""
        folder = self.img_prefix
        if not os.path.isdir(folder):
            raise MissingFileError(f'the folder {folder!r} does not exist.')
        found = [name for name in list_folders(folder) if not is_hidden(name)]
        classes = list(self.CLASSES or found)
        if set(found) <= set(classes):
            numbers = {name: classes.index(name) for name in found}
        elif len(found) == len(classes) and not set(found) & set(classes):
            numbers = {name: number for number, name in enumerate(found)}
        else:
            unknown = [name for name in found if name not in classes]
            raise InputError(f'{folder!r} has the folder {unknown[0]!r}, which is none of the {len(classes)} classes '
                             f'({", ".join(map(repr, classes[:3]))}, ...), and {len(unknown) - 1} more. Set metainfo=dict('
                             'classes=...) to the names of the folders.')
        self.folder_to_idx = numbers
        self._metainfo['classes'] = tuple(classes)
        samples = [(os.path.join(name, path), number) for name, number in sorted(numbers.items())
                   for path in self._list_images(os.path.join(folder, name))]
        if not samples:
            raise MissingFileError(f'the folders in {folder!r} hold no image that ends in {", ".join(sorted(self.extensions))}.')
        return samples

    def _list_images(self, folder: str) -> list[str]:
        found = []
        for root, folders, files in os.walk(folder, followlinks=True):
            folders[:] = sorted(name for name in folders if not is_hidden(name))
            found += [
                os.path.relpath(os.path.join(root, name), folder) for name in sorted(files)
                if not name.startswith('.') and self.is_valid_file(name)
            ]
        return found
