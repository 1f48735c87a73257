"""Checkpoints that need no base file, and some that need no mmparax."""
import io
from pathlib import Path
from typing import Any, Dict, Mapping, Tuple, Union

import torch
from safetensors.torch import save
from torch import Tensor, nn

from mmparax.backbones.adapted import ADAPTER, CENTER, AdaptedBackbone, adapted_backbones
from mmparax.checkpoint.fingerprint import describe, plain
from mmparax.deploy.merging import check_mergeable, merge_adapter, unmerge_adapter
from mmparax.errors import InputError, ParameterError
from mmparax.utils.signatures import keyword_defaults
from mmparax.utils.storage import write
from mmparax.weights.metadata import as_text

SUFFIXES = ('.pth', '.safetensors')
SIDE = 224  # of the image on which outputs are compared, for backbones that have no size of their own
TOLERANCE = 1e-3  # of the largest output


def standalone(model: nn.Module, meta: Mapping[str, Any]) -> Dict[str, Any]:
    """A checkpoint with everything: base, adapters and head.

    Args:
        model: a complete model.
        meta: metadata of the checkpoint that it was loaded from; what they say of mmparax is replaced.
    """
    return dict(state_dict=dict(model.state_dict()), meta={**meta, 'mmparax': describe(model)})


def upstream_checkpoint(model: nn.Module, meta: Mapping[str, Any]) -> Tuple[Dict[str, Any], float]:
    """A checkpoint for the toolbox's own backbone: adapters merged, keys those that it has without mmparax.

    Its function is compared on one random image: upstream's class with these weights and the adapted backbone as it was.

    Args:
        model: a complete model whose adapters can be merged, or that has none (``BitFit``, ``NormTuning``, ``Frozen``, full
            fine-tuning); it is as before afterwards.
        meta: metadata of the checkpoint that it was loaded from; kept but for ``cfg`` and ``mmparax``, which would mislead.

    Returns:
        The checkpoint, and the largest difference of two outputs.

    Raises:
        InputError: if the adapters cannot be merged, or the model is in half precision.
    """
    backbones = adapted_backbones(model)
    for _, backbone in backbones:
        check_mergeable(backbone)
        _check_precision(backbone)
    names = list(model.state_dict())
    for prefix, backbone in backbones:
        own = [f'{prefix}.{name}' if prefix else name for name in backbone.names_of(ADAPTER, CENTER)]
        names = [name for name in names if name not in set(own)]
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        expected = [_outputs(backbone) for _, backbone in backbones]
        merge_adapter(model)
        # Not by state_dict(), which a merged model refuses, because with its adapters it would be another model.
        state: Dict[str, Tensor] = {**dict(model.named_parameters(remove_duplicate=False)),
                                    **dict(model.named_buffers(remove_duplicate=False))}
        state = {name: state[name].detach().clone() for name in names}
    finally:
        unmerge_adapter(model)
        for module, training in modes.items():
            module.training = training  # each its own: some may have been set apart, such as norms that do not adapt
    worst = 0.
    for (prefix, backbone), before in zip(backbones, expected):
        start = f'{prefix}.' if prefix else ''
        worst = max(worst, _difference(backbone, {name[len(start):]: value for name, value in state.items()
                                                  if name.startswith(start)}, before))
    return dict(state_dict=state, meta={key: value for key, value in meta.items() if key not in ('cfg', 'mmparax')}), worst


def upstream_config(backbone: AdaptedBackbone) -> Dict[str, Any]:
    """Config of the toolbox's own backbone with the same options; those that are its defaults are left out."""
    cls = backbone.upstream
    defaults = keyword_defaults(cls.__init__)
    options = {name: value for name, value in backbone.upstream_options.items()
               if name not in defaults or value != defaults[name]}
    return dict(type=f'{cls.__module__.split(".")[0]}.{cls.__name__}', **plain(options))


def write_checkpoint(path: Union[str, Path], content: Mapping[str, Any], overwrite: bool = False) -> None:
    """Write a checkpoint whole or not at all.

    Args:
        path: ends in ``.pth`` or ``.safetensors``.
        content: ``dict(state_dict=..., meta=...)``.
        overwrite: replace a file that is there.

    Raises:
        InputError: for another suffix, or if the file exists.
        StorageError: if it cannot be written.
    """
    check_new(path, SUFFIXES, overwrite)
    if Path(path).suffix == '.safetensors':
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in content['state_dict'].items()}
        data = save(tensors, as_text(content['meta']))
    else:
        buffer = io.BytesIO()
        torch.save(dict(content), buffer)
        data = buffer.getvalue()
    write(path, data, remedy='Make room, or choose another place.')


def check_new(path: Union[str, Path], suffixes: Tuple[str, ...], overwrite: bool) -> None:
    """Raise InputError if a file to write has another suffix, or is there and shall not be replaced."""
    if Path(path).suffix not in suffixes:
        raise ParameterError('OUT', str(path), f'it must end in {" or ".join(suffixes)}')
    if Path(path).exists() and not overwrite:
        raise ParameterError('OUT', str(path), 'the file exists', 'Choose another name, or replace it by --force.')


def _check_precision(backbone: AdaptedBackbone) -> None:
    found = sorted({str(value.dtype) for value in backbone.parameters()} - {'torch.float32', 'torch.float64'})
    if found:
        raise InputError(f'{type(backbone).__name__} is in {" and ".join(found)}, and outputs are compared in torch.float32 '
                             'or torch.float64: load it without converting it, and convert what comes out.')


@torch.no_grad()
def _outputs(backbone: nn.Module) -> Tuple[Tensor, ...]:
    """Of one random image, always the same."""
    size = getattr(backbone, 'img_size', SIDE)
    size = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    like = next(backbone.parameters())
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(like)
    return backbone(image)


def _difference(backbone: AdaptedBackbone, state: Mapping[str, Tensor], before: Tuple[Tensor, ...]) -> float:
    """Largest difference between the outputs of upstream's class with ``state`` and those that the backbone gave."""
    upstream = backbone.upstream(**backbone.upstream_options).to(next(backbone.parameters()))
    upstream.load_state_dict(state)
    upstream.eval()
    pairs = list(zip(before, _outputs(upstream)))
    worst = max(float((a - b).abs().max()) for a, b in pairs)
    if worst > TOLERANCE * max(float(a.abs().max()) for a, _ in pairs):
        raise InputError(f'{type(upstream).__name__} with the merged weights gives other outputs than '
                             f'{type(backbone).__name__} (by up to {worst:.3g}): nothing was written. Use the checkpoint with '
                             'mmparax, without --upstream.')
    return worst
