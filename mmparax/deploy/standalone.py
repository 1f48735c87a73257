"""Checkpoints that need no base checkpoint, and some that need no mmparax."""
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from mmparax.backbones.adapted import AdaptedBackbone, find_adapted_backbones
from mmparax.backbones.roles import Role
from mmparax.checkpoint.fingerprint import describe, to_plain_config
from mmparax.deploy.merging import check_mergeable, merge_adapter, unmerge_adapter
from mmparax.errors import InputError, ParameterError
from mmparax.utils.names import join_name, make_prefix, strip_prefix
from mmparax.utils.signatures import get_keyword_defaults
from mmparax.utils.storage import write
from mmparax.weights.metadata import encode_meta
from mmparax.weights.seal import seal_archive, seal_metadata

SUFFIXES = ('.pth', '.safetensors')
SIDE = 224  # of the image on which outputs are compared, for backbones that have no size of their own
TOLERANCE = 1e-3  # of the largest output


def make_standalone_checkpoint(model: nn.Module, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Make a checkpoint with everything: base, adapters and head.

    Args:
        model: a complete model.
        meta: metadata of the checkpoint that it was loaded from; the entry ``mmparax`` is replaced.
    """
    return dict(state_dict=dict(model.state_dict()), meta={**meta, 'mmparax': describe(model)})


def make_upstream_checkpoint(model: nn.Module, meta: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
    """Make a checkpoint for the toolbox's own backbone: adapters merged, with the keys of a model without mmparax.

    Upstream's backbone with these weights is compared with the adapted backbone on one random image.

    Args:
        model: a complete model whose adapters can be merged, or that has none (``BitFit``, ``NormTuning``, ``Frozen``, full
            fine-tuning); it does not change.
        meta: metadata of the checkpoint that it was loaded from; ``cfg`` and ``mmparax``, which would mislead, are left out.

    Returns:
        tuple: the checkpoint, and the largest difference of two outputs.

    Raises:
        InputError: if the adapters cannot be merged, the model is in half precision, or the outputs differ.
    """
    backbones = find_adapted_backbones(model)
    for _, backbone in backbones:
        check_mergeable(backbone)
        _check_precision(backbone)
    names = list(model.state_dict())
    for owner, backbone in backbones:
        own = {join_name(owner, name) for name in backbone.names_of(Role.ADAPTER, Role.EXPERT_CENTER)}
        names = [name for name in names if name not in own]
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        expected = [_run_random_image(backbone) for _, backbone in backbones]
        merge_adapter(model)
        # A merged model refuses state_dict(): loaded with its adapters, that would be another model.
        state: dict[str, Tensor] = {
            **dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))
        }
        state = {name: state[name].detach().clone() for name in names}
    finally:
        unmerge_adapter(model)
        for module, training in modes.items():
            module.training = training  # each its own: some may have a mode of their own, such as norms in evaluation mode
    worst = 0.
    for (owner, backbone), outputs in zip(backbones, expected):
        worst = max(worst, _compare_upstream(backbone, strip_prefix(state, make_prefix(owner)), outputs))
    return dict(state_dict=state, meta={key: value for key, value in meta.items() if key not in ('cfg', 'mmparax')}), worst


def make_upstream_config(backbone: AdaptedBackbone) -> dict[str, Any]:
    """Make the config of the toolbox's own backbone with the same options; its defaults are left out."""
    cls = backbone.upstream
    defaults = get_keyword_defaults(cls)
    options = {
        name: value for name, value in backbone.upstream_options.items() if name not in defaults or value != defaults[name]
    }
    return dict(type=f'{cls.__module__.split(".")[0]}.{cls.__name__}', **to_plain_config(options))


def write_checkpoint(out: str | Path, content: Mapping[str, Any], overwrite: bool = False) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        out: file to write; ends in ``.pth`` or ``.safetensors``.
        content: ``dict(state_dict=..., meta=...)``.
        overwrite: replace an existing file.

    Raises:
        ParameterError: for another suffix, or if the file exists.
        StorageError: if it cannot be written.
    """
    check_output_file(out, SUFFIXES, overwrite)
    if Path(out).suffix == '.safetensors':
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in content['state_dict'].items()}
        data = save(tensors, seal_metadata(tensors, encode_meta(content['meta'])))
    else:
        buffer = io.BytesIO()
        torch.save(dict(content), buffer)
        data = seal_archive(buffer.getvalue())
    write(out, data, remedy='Make room, or choose another place.')


def check_output_file(out: str | Path, suffixes: tuple[str, ...], overwrite: bool) -> None:
    """Raise ParameterError if a file to write has another suffix, or exists and must not be replaced."""
    if Path(out).suffix not in suffixes:
        raise ParameterError('out', str(out), f'it must end in {" or ".join(suffixes)}')
    if Path(out).exists() and not overwrite:
        raise ParameterError('out', str(out), 'the file exists', 'Choose another name, or replace it with overwrite=True.')


def _check_precision(backbone: AdaptedBackbone) -> None:
    found = sorted({str(value.dtype) for value in backbone.parameters()} - {'torch.float32', 'torch.float64'})
    if found:
        raise InputError(f'{type(backbone).__name__} is in {" and ".join(found)}, and outputs are compared in torch.float32 '
                         'or torch.float64: load it without converting it, and convert the checkpoint.')


@torch.no_grad()
def _run_random_image(backbone: nn.Module) -> tuple[Tensor, ...]:
    """Run a backbone on one random image, always the same."""
    size = getattr(backbone, 'img_size', SIDE)
    size = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    like = next(backbone.parameters())
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(like)
    return backbone(image)


def _compare_upstream(backbone: AdaptedBackbone, state: Mapping[str, Tensor], expected: tuple[Tensor, ...]) -> float:
    """Run upstream's backbone with ``state``; return the largest difference to the outputs of the adapted backbone.

    Raises:
        InputError: if it is too large.
    """
    upstream = backbone.upstream(**backbone.upstream_options).to(next(backbone.parameters()))
    upstream.load_state_dict(state)
    upstream.eval()
    pairs = list(zip(expected, _run_random_image(upstream)))
    worst = max(float((a - b).abs().max()) for a, b in pairs)
    if worst > TOLERANCE * max(float(a.abs().max()) for a, _ in pairs):
        raise InputError(f'{type(upstream).__name__} with the merged weights gives other outputs than '
                         f'{type(backbone).__name__} (by up to {worst:.3g}). Use a checkpoint that keeps the adapters.')
    return worst
