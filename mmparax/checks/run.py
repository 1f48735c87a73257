"""What PEFTHook checks in a run and tools/doctor.py without one."""
from collections import Counter
from dataclasses import dataclass
from typing import Any, Callable, Iterable, List, Mapping, Optional, Tuple

import torch
from mmengine.dist import get_world_size
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor, nn

from mmparax.backbones.adapted import BASE, adapted_backbones
from mmparax.checkpoint.compatibility import check_head, check_method, no_head, split_names
from mmparax.checkpoint.fingerprint import check_fingerprint, fingerprint
from mmparax.errors import InputError, TrainingError
from mmparax.weights.adapter_file import description


def check_resumable(checkpoint: Mapping[str, Any], source: str) -> None:
    """Check that a file has all that mmengine needs to go on from it.

    Raises:
        InputError: naming what is absent.
    """
    meta = checkpoint.get('meta')
    if description(checkpoint):
        raise InputError(f'{source!r} is a published adapter, not a file to resume from: use load_from to start a new run '
                             'from its weights, or resume from an iter_* or epoch_* file.')
    absent = [name for name in ('optimizer', 'message_hub') if name not in checkpoint]
    absent += [f'meta.{name}' for name in ('epoch', 'iter') if not isinstance(meta, Mapping) or name not in meta]
    if absent:
        raise InputError(f'{source!r} is not a file to resume from: it has no {", ".join(absent)} (best_* and published '
                             'files have none). Use load_from to start a new run from its weights, or resume from an iter_* '
                             'or epoch_* file.')


def check_origin(model: nn.Module, checkpoint: Mapping[str, Any], source: str, training: bool) -> None:
    """Check by a checkpoint's metadata and keys that it was made by this method on this base.

    The weights themselves are judged by the backbone when they are loaded.

    Args:
        model: the model that it will be loaded into.
        checkpoint: content of the file.
        source: its path, for the errors.
        training: whether a run starts from it; otherwise the head must fit completely, too.

    Raises:
        InputError: naming the difference.
    """
    if not isinstance(checkpoint, Mapping):
        raise InputError(f'{source!r} holds a {type(checkpoint).__name__} and no weights by name.')
    weights = checkpoint.get('state_dict', checkpoint)
    weights = {name[7:] if name.startswith('module.') else name: value for name, value in weights.items()}
    described = (checkpoint.get('meta') or {}).get('mmparax') or {}
    for name, backbone in adapted_backbones(model):
        check_method(name, backbone, (described.get('backbones') or {}).get(name), repr(source))
        prefix = f'{name}.' if name else ''
        given = {key for key, value in weights.items() if key.startswith(prefix) and isinstance(value, Tensor)}
        trained = [prefix + key for key, role in backbone.parameter_roles().items() if role != BASE]
        if not given.intersection(trained) and (trained or not given and not described):
            raise InputError(
                f'{source!r} holds nothing of what {type(backbone).__name__} trains: it looks like the file of a pre-trained '
                'base. ' + ('Set model.backbone.base_checkpoint to it, and load_from=None.' if training else
                             'Give a checkpoint of a training run, such as iter_*.pth of its work dir; the file of a base '
                             'belongs to model.backbone.base_checkpoint.'))
    if all(backbone.base_source == 'file' for _, backbone in adapted_backbones(model)):
        check_fingerprint(model, described, repr(source))
    if not training:
        if described.get('head_included') is False and split_names(model, model.state_dict())[1]:
            raise InputError(no_head(model, repr(source)))
        check_head(model, weights, repr(source))


def single_wrappers(wrapper: Any) -> List[OptimWrapper]:
    """The optimizer wrappers of an ``OptimWrapperDict``, or the one that is given."""
    parts = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    return [part for part in parts if isinstance(part, OptimWrapper)]


def check_optimized(model: nn.Module, wrapper: Any) -> None:
    """Check that every parameter that trains is in an optimizer, once.

    Raises:
        TrainingError: naming the first that is not.
    """
    places = Counter(id(parameter) for part in single_wrappers(wrapper) for group in part.param_groups
                     for parameter in group['params'])
    absent = [name for name, parameter in model.named_parameters() if parameter.requires_grad and places[id(parameter)] != 1]
    if absent:
        raise TrainingError(f'{absent[0]} trains, but is not in the optimizer exactly once, nor are {len(absent) - 1} more: '
                            'something changed the model or requires_grad after the optimizer was built.')


def watch_first_step(optimizer: torch.optim.Optimizer, model: nn.Module, report: Callable[['Gradients'], None]) -> None:
    """Call ``report`` once, when the optimizer first takes a step: the gradients exist then, unscaled, and only then.

    It is not called for a step that the loss scaler rejects.
    """

    def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # A fused optimizer is also called for a rejected step and skips it by itself.
        rejected = getattr(optimizer, 'found_inf', None)
        if rejected is not None and bool(rejected.any()):
            return
        handle.remove()
        own = {id(parameter) for group in optimizer.param_groups for parameter in group['params']}
        report(gradients((name, parameter) for name, parameter in model.named_parameters() if id(parameter) in own))

    handle = optimizer.register_step_pre_hook(look)


@dataclass
class Gradients:
    """Names of the trained parameters by what their first gradient was."""
    none: List[str]
    bad: List[str]
    zero: List[str]
    count: int


def gradients(parameters: Iterable[Tuple[str, nn.Parameter]]) -> Gradients:
    """Sort the parameters that train by their gradient: none, not finite, exactly zero."""
    found = Gradients([], [], [], 0)
    for name, parameter in parameters:
        if not parameter.requires_grad:
            continue
        found.count += 1
        if parameter.grad is None:
            found.none.append(name)
        elif not torch.isfinite(parameter.grad).all():
            found.bad.append(name)
        elif not parameter.grad.any():
            found.zero.append(name)
    return found


def check_gradients(found: Gradients, unused_allowed: bool = False) -> None:
    """Check the gradients of a first step; exact zeros are normal (LoRA's A, a router with one expert).

    Raises:
        TrainingError: naming the first parameter without a gradient, or whose gradient is not finite.
    """
    if found.none and not unused_allowed:
        raise TrainingError(f'{found.none[0]} got no gradient, and {len(found.none) - 1} more of {found.count} parameters that '
                            'train: they are not used in the forward pass and would stop a run on several processes. Remove '
                            'them, or freeze them with requires_grad=False.')
    if found.bad:
        raise TrainingError(f'the first gradient of {found.bad[0]} is not finite, and those of {len(found.bad) - 1} more of '
                            f'{found.count} parameters: lower the learning rate, use --amp bf16 or no mixed precision, and '
                            'look at the input.')


class FrozenWatch:
    """Remembers the frozen parameters of a model and tells whether they are still the same.

    ``check`` compares version counters, which every in-place change raises and which cost nothing; ``check_bytes`` reads
    every byte of the frozen base.
    """

    def __init__(self, model: nn.Module):
        self.frozen = {name: parameter for name, parameter in model.named_parameters() if not parameter.requires_grad}
        self.versions = {name: (parameter._version, parameter.data_ptr()) for name, parameter in self.frozen.items()}
        self.fingerprint = fingerprint(model)

    def check(self, when: str) -> None:
        """Raise TrainingError if a frozen parameter was written to or replaced."""
        changed = [name for name, parameter in self.frozen.items()
                   if (parameter._version, parameter.data_ptr()) != self.versions[name]]
        if changed:
            raise TrainingError(f'the frozen parameter {changed[0]} was changed {when}, and {len(changed) - 1} more of '
                                f'{len(self.frozen)}: a hook or the training step writes to it.')
        thawed = [name for name, parameter in self.frozen.items() if parameter.requires_grad]
        if thawed:
            raise TrainingError(f'{thawed[0]} was frozen and is not any more ({when}), nor are {len(thawed) - 1} more: '
                                'something sets requires_grad after the model was built, when the optimizer no longer sees it.')

    def check_bytes(self, model: nn.Module) -> None:
        """Raise TrainingError if the bytes of the frozen base are others than at the start."""
        if fingerprint(model) != self.fingerprint:
            raise TrainingError('the frozen base is not what it was at the start of the run (its fingerprint differs): '
                                'something wrote to it past autograd, through .data.')


def check_sync_norms(model: nn.Module) -> None:
    """Check that synchronised batch norm, which exists on GPUs only, is not asked to run on the CPU.

    Raises:
        InputError: naming the first such layer.
    """
    names = [name for name, module in model.named_modules() if 'SyncBatchNorm' in type(module).__name__]
    if names and not any(parameter.is_cuda for parameter in model.parameters()):
        raise InputError(f"{names[0]} is a synchronised batch norm, which needs GPUs, and the model is on the CPU, as are "
                             f"{len(names) - 1} more. Set norm_cfg=dict(type='BN') in the head, or train by "
                             'tools/dist_train.sh, which does so.')


@dataclass
class Schedule:
    """Batch and learning rate of a run."""
    world: int
    batch: int
    accumulation: int
    recipe: Optional[int]
    scaled: bool
    rates: List[float]

    @property
    def effective(self) -> int:
        return self.world * self.batch * self.accumulation

    def text(self) -> str:
        """One line: processes x batch x accumulation, the batch that the recipe's learning rate is for, the rates."""
        text = (f'Effective batch size {self.effective} = {self.world} process(es) x {self.batch} images x '
                f'{self.accumulation} accumulated step(s)')
        if self.recipe:
            text += f'; the recipe is for {self.recipe}, the learning rate was {"" if self.scaled else "not "}scaled'
        return text + f'. Learning rate after warm-up: {", ".join(f"{rate:g}" for rate in self.rates)}.'

    def warning(self) -> Optional[str]:
        """What is unusual about it, with the remedy, or None."""
        if not self.recipe:
            return None
        if self.scaled and self.accumulation > 1:
            return (f'auto_scale_lr counts {self.world * self.batch} images and not the {self.accumulation} accumulated '
                    f'steps: for a batch of {self.effective} the learning rate should be {self.accumulation} times as high. '
                    'Set it yourself and leave auto_scale_lr off.')
        if not self.scaled and self.effective != self.recipe:
            return (f'the effective batch size is {self.effective}, the learning rate is for {self.recipe}: use '
                    '--auto-scale-lr, another batch size, or optim_wrapper.accumulative_counts.')
        return None


def schedule_of(cfg: Mapping[str, Any], batch: int, wrapper: Any, world: Optional[int] = None) -> Schedule:
    """Describe the schedule of a run from its config and its optimizer wrapper."""
    scale = cfg.get('auto_scale_lr') or {}
    parts = single_wrappers(wrapper)
    rates = sorted({group.get('initial_lr', group['lr']) for part in parts for group in part.param_groups}, reverse=True)
    return Schedule(world or get_world_size(), batch, max(part._accumulative_counts for part in parts),
                    scale.get('base_batch_size'), bool(scale.get('enable')), rates)
