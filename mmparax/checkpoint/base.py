"""Finds the file of a pre-trained trunk and copies it into the trunk, completely or not at all."""
import os
from pathlib import Path
from typing import Dict, List, Mapping, Optional
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, is_main_process
from torch import Tensor, nn

from mmparax.errors import MissingFileError, ParameterError

# Parts of published files that a trunk has no use for: classifiers, the final norm (output norms start fresh), buffers
# that are computed again, and what only pre-training needs.
IGNORED_PREFIXES = ('head.', 'norm.', 'fc_norm.', 'decoder_')
IGNORED_NAMES = ('attn_mask', 'relative_position_index', 'mask_token')


SHIPPED = 'mmparax://'  # a file in the package's own folder of small bases
ZOO = Path(__file__).parents[1] / 'zoo'


def is_url(source: str) -> bool:
    return source.startswith(('http://', 'https://'))


def cached_path(url: str) -> Path:
    """Where the file of a URL is kept, the folder that torch's own downloads use."""
    return Path(torch.hub.get_dir()) / 'checkpoints' / os.path.basename(urlparse(url).path)


def locate(source: str) -> Optional[Path]:
    """Return the local file of a path, ``mmparax://`` name or cached URL, or None if it is not at hand."""
    if is_url(source):
        path = cached_path(source)
    elif source.startswith(SHIPPED):
        path = ZOO / source[len(SHIPPED):]
    else:
        path = Path(source).expanduser()
    return path if path.is_file() else None


def fetch(source: str) -> Path:
    """Return the local file of a path or URL; the main process downloads, the others wait.

    Raises:
        FileNotFoundError: if it is not there and cannot be had.
    """
    if not is_url(source):
        path = locate(source)
        if path is None:
            raise MissingFileError(f'base_checkpoint={source!r} does not exist (looked in {os.getcwd()!r}). Put the file '
                                    'there or set model.backbone.base_checkpoint to its path.')
        return path
    target = cached_path(source)
    failure = None
    if locate(source) is None and is_main_process():
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(source, str(target))  # writes a temporary file and renames it
        except Exception as error:
            failure = error
    barrier()
    if locate(source) is None:
        raise MissingFileError(f'base_checkpoint={source!r} could not be downloaded ({failure}). Download it by other means '
                                f'and put it at {str(target)!r}, or set model.backbone.base_checkpoint to its path.'
                                ) from failure
    return target


def ignorable(name: str, output_norms: List[str]) -> bool:
    """Whether a key of a base file may be left out without a word."""
    return name.startswith(IGNORED_PREFIXES + tuple(norm + '.' for norm in output_norms)) or any(
        part in name.split('.') for part in IGNORED_NAMES)


@torch.no_grad()
def copy_base(parameters: Mapping[str, nn.Parameter], weights: Dict[str, Tensor], source: str, owner: str,
              output_norms: List[str]) -> None:
    """Copy ``weights`` into ``parameters`` after checking that they are the same set of names and shapes.

    Raises:
        ValueError: listing the keys that are missing, unexpected or of another shape; nothing is copied then.
    """
    missing = [name for name in parameters if name not in weights]
    unexpected = [name for name in weights if name not in parameters and not ignorable(name, output_norms)]
    wrong = [f'{name} {tuple(weights[name].shape)} instead of {tuple(parameter.shape)}'
             for name, parameter in parameters.items()
             if name in weights and weights[name].shape != parameter.shape]
    if missing or unexpected or wrong:
        problems = [f'{len(names)} {label} ({", ".join(names[:4])}{", ..." if len(names) > 4 else ""})'
                    for label, names in (('missing', missing), ('of another shape', wrong), ('unexpected', unexpected))
                    if names]
        raise ParameterError(f'base_checkpoint={source!r} does not fit {owner}: of {len(parameters)} weights '
                         f'{"; ".join(problems)}. Give the file of this arch (arch, window_size, patch_size), or change '
                         'the arch; nothing was loaded.')
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])
