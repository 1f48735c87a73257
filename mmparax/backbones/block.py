"""Joins methods and blocks: turns an upstream block into one with sites and fills them.

The upstream block is built as it is; then its ``__class__`` becomes a static subclass whose forward calls the modules
at its sites. Keys of the base weights do not change, and pickle, deepcopy and compile work.
"""
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks.wrappers import Linear as MMCVLinear
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmparax.adapters.base import LINEAR_SITES, PROMPT_SITE, STREAM_SITES, BlockInfo, Method
from mmparax.errors import InputError, UpstreamChangedError
from mmparax.ops.recompute import disable_recomputation
from mmparax.utils.names import join_name


def swap_class(module: nn.Module, expected: Sequence[type], replacement: type, forward: Sequence[str]) -> None:
    """Make ``module`` an instance of ``replacement``, which extends the one class that it may be now.

    Args:
        module: changed in place; its parameters and children stay.
        expected: the classes that ``replacement`` was written for.
        replacement: a subclass or a stand-in with the same attributes.
        forward: the parameter names that ``expected``'s forward must have.

    Raises:
        UpstreamChangedError: if the module is of another class, or its forward has another signature.
    """
    found = list(inspect.signature(type(module).forward).parameters)[1:]
    if type(module) not in expected or found != list(forward):
        names = ' or '.join(f'{cls.__module__}.{cls.__name__}' for cls in expected)
        raise UpstreamChangedError(f'mmparax adapts {names} with forward({", ".join(forward)}), but found '
                                   f'{type(module).__module__}.{type(module).__name__} with forward({", ".join(found)}): this '
                                   'version of the toolbox has another block; install the versions in requirements.txt.')
    module.__class__ = replacement


class AdapterHost(nn.Module):
    """Marks a module whose ``adapters`` (site -> module) belong to a method."""
    adapters: nn.ModuleDict


class AdaptedLinear(AdapterHost, nn.Linear):
    """A frozen linear map with modules on slices of its output; ``weight`` and ``bias`` keep their keys.

    Attributes:
        slices: name of a module -> (start, stop) of its part of the output, in order.
        original_rows: name of a module that is merged -> its rows of the weight as they were.
    """
    slices: dict[str, tuple[int, int]]
    original_rows: dict[str, Tensor]

    @torch.no_grad()
    def merge(self) -> None:
        """Add each module's ``weight_update()`` to its rows of the weight."""
        for name, (start, stop) in self.slices.items():
            rows, update = self.weight[start:stop], self.adapters[name].weight_update()
            self.original_rows[name] = rows.clone()
            rows += update.to(rows.dtype)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Put the rows back as they were, bit for bit."""
        for name, rows in self.original_rows.items():
            start, stop = self.slices[name]
            self.weight[start:stop].copy_(rows)
        self.original_rows.clear()

    def _save_to_state_dict(self, *args: Any) -> None:
        self._check_unmerged('give its state dict')  # the backbone says so, too, but a part of it can be asked alone
        super()._save_to_state_dict(*args)

    def _load_from_state_dict(self, *args: Any) -> None:
        self._check_unmerged('load weights')
        super()._load_from_state_dict(*args)

    def _check_unmerged(self, action: str) -> None:
        if self.original_rows:
            raise InputError(f'a part of a backbone cannot {action} while its adapters are merged into its weights: call '
                             'mmparax.unmerge_adapter(model) first.')

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        if self.original_rows:
            return y
        parts, end = [], 0
        for name, (start, stop) in self.slices.items():
            parts += [y[..., end:start], self.adapters[name](x, y[..., start:stop])]
            end = stop
        parts.append(y[..., end:])
        parts = [part for part in parts if part.shape[-1]]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


class AdaptedBlock(AdapterHost):
    """Mixin of the block classes that upstream's blocks are swapped to.

    A subclass names what it stands for and what it offers, and implements ``forward_adapted``.

    Class attributes:
        upstream: the class that is swapped.
        forward_names: the parameters of upstream's forward.
        branches: 2 for a token mixer and a channel mixer, 1 for a single residual branch.
        stream_sites: the residual-stream sites.
        linear_paths: role -> (path of the linear layer, third of its output or None for all of it).
        takes_prompts: whether the block's attention takes extra tokens.
    """
    upstream: ClassVar[type]
    forward_names: ClassVar[tuple[str, ...]]
    branches: ClassVar[int]
    stream_sites: ClassVar[tuple[str, ...]]
    linear_paths: ClassVar[dict[str, tuple[str, int | None]]] = {}
    takes_prompts: ClassVar[bool] = False

    def list_sites(self) -> tuple[str, ...]:
        """Return the sites of this block. A variant of it may lack some linear layers of ``linear_paths``."""
        layers = dict(self.named_modules())
        linear = tuple(site for site, (path, _) in self.linear_paths.items() if isinstance(layers.get(path), nn.Linear))
        return self.stream_sites + linear + ((PROMPT_SITE, ) if self.takes_prompts else ())

    @classmethod
    def swap(cls, block: nn.Module) -> None:
        """Turn an upstream block into an adapted one without adapters, which computes the same.

        Raises:
            UpstreamChangedError: if the toolbox has another block than this class extends.
        """
        swap_class(block, [cls.upstream], cls, cls.forward_names)
        block.adapters = nn.ModuleDict()

    def fill(self, method: Method, sites: Sequence[str], info: BlockInfo, center: nn.Module | None) -> None:
        """Build the method's modules for ``sites`` and put them where the block's forward finds them."""
        order = self.list_sites()
        for site in sorted(sites, key=order.index):
            module = method.build(site, info, center)
            if site in STREAM_SITES:
                self.adapters[site] = module
            elif site in LINEAR_SITES:
                self._fill_linear(site, module)
            else:
                self.fill_prompts(module)

    def _fill_linear(self, site: str, module: nn.Module) -> None:
        path, third = self.linear_paths[site]
        linear = self.get_submodule(path)
        if not isinstance(linear, AdaptedLinear):
            name = 'x' if type(linear) is MMCVLinear else 'input'
            swap_class(linear, [nn.Linear, MMCVLinear], AdaptedLinear, [name])
            linear.adapters, linear.slices, linear.original_rows = nn.ModuleDict(), {}, {}
        width = linear.out_features // (1 if third is None else 3)
        start = width * (third or 0)
        name = site.split(':')[1]
        linear.adapters[name] = module
        linear.slices = dict(sorted({**linear.slices, name: (start, start + width)}.items(), key=lambda item: item[1]))

    def fill_prompts(self, module: nn.Module) -> None:
        """Put the module of the prompts where the block's forward finds it."""
        self.adapters[PROMPT_SITE] = module

    def adapt(self, site: str, x: Tensor, hw: tuple[int, int]) -> Tensor:
        """Pass ``x`` (B, N, C) of a map of size ``hw`` through the module at a stream site, or return it as it is."""
        return self.adapters[site](x, hw) if site in self.adapters else x

    def run(self, function: Callable, *inputs: Any) -> Any:
        """Call ``function``, under activation checkpointing if the block has ``with_cp``.

        Non-reentrant, and whether or not the input needs a gradient: behind a frozen stem the input of the first block
        needs none, and a reentrant checkpoint would then lose the gradients of its adapters.
        """
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(disable_recomputation(function), *inputs, use_reentrant=False)
        return function(*inputs)


def find_adapter_modules(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, module) for every module that a method put at a site below ``root``."""
    for name, host in root.named_modules():
        if isinstance(host, AdapterHost):
            for site, module in host.adapters.items():
                yield join_name(name, 'adapters', site), module
