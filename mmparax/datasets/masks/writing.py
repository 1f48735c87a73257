"""Writes images and masks in the layout that the configs read."""
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mmparax.datasets.drafts import check_writable, remove_stale, replace_folder
from mmparax.datasets.masks.examination import MaskSet
from mmparax.datasets.masks.numbering import IGNORED
from mmparax.datasets.masks.reading import read_values
from mmparax.errors import InputError, ParameterError
from mmparax.utils.problems import ProblemList
from mmparax.utils.progress import Progress

FORMAT = 'mmparax-masks'


def check_target(out_dir: str | Path, sources: Sequence[str | Path], overwrite: bool = False, format: str = FORMAT,
                 meaning: str = 'prepared masks') -> None:
    """Raise ParameterError if ``out_dir`` must not or cannot be written to; clear what killed calls left beside it.

    Args:
        out_dir: folder to create.
        sources: folders and files that are read.
        overwrite: a folder that was made before may be replaced.
        format: the word in its ``classes.json`` by which it is known.
        meaning: what such a folder holds.
    """
    out = Path(out_dir).resolve()
    for source in map(Path, sources):
        if out in (source.resolve(), *source.resolve().parents):
            kind = 'file' if source.is_file() else 'folder'
            raise ParameterError('out_dir', str(out), f'the {kind} {str(source)!r}, which is read, must not be in it')
    check_writable('out_dir', out)
    remove_stale(out)
    if not os.path.exists(out) or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        found = json.loads((out / 'classes.json').read_text(encoding='utf-8')).get('format')
    except (OSError, ValueError, AttributeError):
        found = None
    if found != format:  # never deleted, not even when forced: it may be anything
        raise ParameterError('out_dir', str(out), f'it holds something that is not a set of {meaning}', 'Choose another folder.')
    if not overwrite:
        raise ParameterError('out_dir', str(out), f'it holds {meaning} already',
                             'Choose another folder, or replace them with overwrite=True.')


def write_masks(found: MaskSet, out_dir: str | Path, link: bool = False, progress: bool = True) -> None:
    """Write images and masks; what :func:`check_target` allows to replace is replaced.

    The folder appears only when all is written; an interrupted call leaves nothing behind.

    Args:
        found: from :func:`mmparax.datasets.masks.examine`.
        out_dir: folder to create.
        link: make symbolic links to the images instead of copies.
        progress: show a progress bar.

    Raises:
        StorageError: if it cannot be written.
        InputError: if a mask was changed in the meantime.
    """
    # Sorted values and their numbers; a table over all values would be huge if one of them is.
    known = np.array([*found.values, *found.ignored])
    order = np.argsort(known)
    known, numbers = known[order], np.array([*range(len(found.values)), *[IGNORED] * len(found.ignored)], np.uint8)[order]
    with replace_folder(out_dir) as draft, Progress(total=sum(map(len, found.pairs.values())), desc='writing', unit='image',
                                                    disable=not progress) as bar:
        for split, pairs in found.pairs.items():
            images, masks = (draft / kind / split for kind in ('images', 'annotations'))
            images.mkdir(parents=True)
            masks.mkdir(parents=True)
            for pair in pairs:
                target = images / f'{pair.image.stem}{found.suffix}'
                target.symlink_to(pair.image.resolve()) if link else shutil.copyfile(pair.image, target)
                values = read_values(pair.mask, found.colours, ProblemList())
                places = np.searchsorted(known, values).clip(max=len(known) - 1) if values is not None else None
                if places is None or (known[places] != values).any():
                    raise InputError(f'{str(pair.mask)!r} was changed while it was read; nothing was written.')
                Image.fromarray(numbers[places]).save(masks / f'{pair.image.stem}.png')
                bar.update()
        meta = dict(format=FORMAT, version=1, classes=found.classes, values=found.values, ignored=found.ignored,
                    counts={split: len(pairs) for split, pairs in found.pairs.items()}, seed=found.seed)
        (draft / 'classes.json').write_text(json.dumps(meta, indent=1) + '\n', encoding='utf-8')
