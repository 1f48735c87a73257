"""The part that every adapted backbone shares: inserting adapters, freezing, and the base weights."""
import logging
import re
from typing import Any, Callable, ClassVar, Dict, List, Mapping, Optional, Sequence, Tuple, Type

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmparax.adapters.adaroute import AdaRoute
from mmparax.adapters.base import BlockInfo, build_method
from mmparax.backbones.block import AdaptedBlock, adapter_modules
from mmparax.errors import InputError, ParameterError, RandomBaseError, check_choice, check_options
from mmparax.ops.functional import sum_expert_gradients_once
from mmparax.utils.signatures import keyword_defaults, keyword_names
from mmparax.weights.claims import CHECKED, CLAIM
from mmparax.weights.matching import check_keys, check_same_base, copy_base
from mmparax.weights.reader import read_weights
from mmparax.weights.sources import fetch, locate

BASE, TUNED, ADAPTER, CENTER, OUTPUT_NORM = 'base', 'tuned', 'adapter', 'center', 'output_norm'


class AdaptedBackbone:
    """Mixin before an upstream backbone class: builds it, swaps its blocks, fills their sites, freezes the rest.

    Everything is decided in ``__init__``, because the runner wraps the model for several processes and builds the
    optimizer before any hook runs.

    Class attributes:
        family: name of the family.
        upstream: the toolbox's backbone class.
        block_class: what its blocks become.
        base_layout: turns the keys of any known file of the family into those of ``upstream``.
        signature: pattern of a key that every file of the family has, and of no other.
        no_frozen_stages: the value of ``frozen_stages`` with which upstream freezes nothing.

    Attributes:
        merged: whether the adapters are a part of the frozen weights for now (:mod:`mmparax.deploy.merging`).
        shared: whether other models run on the same base (:class:`mmparax.AdapterBank`).

    Args:
        adapter: config of a method; None for full fine-tuning (everything trains, upstream's function bit for bit).
        base_checkpoint: path or URL of the pre-trained weights of the base.
        allow_random_base: permit a base without pre-trained weights; only without ``base_checkpoint``.
        efficient_attention: whether a frozen base runs by operations that freezing allows (:meth:`speed_up`), equal up to rounding.
    """
    family: ClassVar[str]
    upstream: ClassVar[type]
    block_class: ClassVar[Type[AdaptedBlock]]
    base_layout: ClassVar[Callable[[Dict[str, Tensor]], Dict[str, Tensor]]]
    signature: ClassVar[str]
    no_frozen_stages: ClassVar[int] = -1
    merged: bool = False
    shared: bool = False

    def __init__(self,
                 *args: Any,
                 adapter: Optional[Mapping[str, Any]] = None,
                 base_checkpoint: Optional[str] = None,
                 allow_random_base: bool = False,
                 efficient_attention: bool = True,
                 **options: Any):
        check_options(type(self).__name__, options, self.known_options())
        options = self._checked_options(adapter, options)
        check_choice('efficient_attention', efficient_attention, (True, False))
        method = None if adapter is None else build_method(adapter)
        options = {**self.upstream_defaults(options), **options}
        super().__init__(*args, **options)
        self.upstream_options = {**keyword_defaults(self.upstream.__init__), **options,
                              **dict(zip(keyword_names(self.upstream.__init__), args))}
        self.base_checkpoint = None if base_checkpoint is None else str(base_checkpoint)
        self.allow_random_base = allow_random_base
        self.base_source = 'random' if allow_random_base and base_checkpoint is None else None
        self.method = method
        self.expert_centers = nn.ModuleList()
        self._insert()
        if method is None:
            if getattr(self, 'frozen_stages', self.no_frozen_stages) != self.no_frozen_stages:
                self._freeze_stages()  # upstream does so only in train(), after the optimizer was built
        else:
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(self._roles[name] != BASE)
            if efficient_attention:
                self.speed_up()
        self._load_base_if_at_hand()

    # ---- what a family gives ----

    def stage_blocks(self) -> List[List[nn.Module]]:
        """The blocks of each stage."""
        raise NotImplementedError

    def block_info(self, block: nn.Module, stage: int, index: int) -> BlockInfo:
        """What a method may know of a block."""
        raise NotImplementedError

    def output_norms(self) -> List[str]:
        """Names of the norms on the outputs; they start fresh and train with every method."""
        raise NotImplementedError

    def output_channels(self) -> Optional[List[int]]:
        """Channels of each output map, or None if the outputs are vectors or tokens, which dense heads cannot take."""
        raise NotImplementedError

    def smallest_side(self) -> int:
        """Height and width in pixels below which upstream's layers fail."""
        return 1

    def speed_up(self) -> None:
        """Swap parts of the frozen base for faster ones with the same keys; by default none."""

    def fit_base(self, weights: Dict[str, Tensor]) -> Dict[str, Tensor]:
        """Change weights of the right layout that depend on the size of the input; by default none."""
        return weights

    @classmethod
    def upstream_defaults(cls, options: Mapping[str, Any]) -> Dict[str, Any]:
        """Defaults that differ from upstream's, given the options that the user set."""
        return {}

    @classmethod
    def known_options(cls) -> List[str]:
        return keyword_names(AdaptedBackbone.__init__, cls.upstream.__init__)

    # ---- construction ----

    def _checked_options(self, adapter: Any, options: Dict[str, Any]) -> Dict[str, Any]:
        """Return the options in the form that every upstream takes."""
        options = dict(options)
        known = {**getattr(self.upstream, 'arch_zoo', {}), **getattr(self.upstream, 'arch_settings', {})}
        shape = {**keyword_defaults(self.upstream.__init__), **options}
        arch = shape.get('arch')
        if isinstance(arch, str):
            if arch.lower() not in known:
                raise ParameterError('arch', arch, f'{self.family} has the archs {", ".join(map(repr, known))}, or a dict of its own')
            if 'arch' in options:
                options['arch'] = arch.lower()
            arch = known[arch.lower()]
        if 'out_indices' in options:
            shape = arch if isinstance(arch, Mapping) else shape
            depths = shape.get('depths', shape.get('num_layers'))
            count = len(depths) if isinstance(depths, Sequence) else depths
            options['out_indices'] = self._checked_out_indices(options['out_indices'], count)
        init_cfg, pretrained = options.get('init_cfg'), options.get('pretrained')
        allowed = 'the pre-trained base is given by base_checkpoint, which checks that every weight fits'
        if pretrained is not None:
            raise ParameterError('pretrained', pretrained, allowed, f'Use base_checkpoint={pretrained!r}.')
        for cfg in init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg]:
            if isinstance(cfg, Mapping) and 'Pretrained' in str(cfg.get('type')):
                raise ParameterError('init_cfg', dict(cfg), allowed, f'Use base_checkpoint={cfg.get("checkpoint")!r}.')
        frozen = options.get('frozen_stages', self.no_frozen_stages)
        if adapter is not None and frozen != self.no_frozen_stages:
            raise ParameterError('frozen_stages', frozen, 'a backbone with an adapter is frozen as a whole, and upstream would '
                            'freeze the adapters of these stages too', 'Remove frozen_stages.')
        return options

    def _checked_out_indices(self, given: Any, count: Optional[int]) -> Any:
        """Return ascending indices from 0 for whatever of the sort was given (upstream ignores those that do not exist)."""
        indices = given if isinstance(given, Sequence) else [given]
        if not count or any(isinstance(index, bool) or not isinstance(index, int) for index in indices):
            return given  # upstream says what it wants
        positive = tuple(index + count if index < 0 else index for index in indices)
        if not positive or any(not 0 <= index < count for index in positive) or sorted(set(positive)) != list(positive):
            raise ParameterError('out_indices', given, f'this {self.family} has the outputs 0 to {count - 1}, each once and in '
                            'ascending order')
        return positive

    def _insert(self) -> None:
        """Swap every block and fill the sites that the method takes."""
        for stage, blocks in enumerate(self.stage_blocks()):
            infos = [self.block_info(block, stage, index) for index, block in enumerate(blocks)]
            for block in blocks:
                self.block_class.swap(block)
            if self.method is None:
                continue
            sites = self.method.select_sites(blocks[0].offered_sites(), self.block_class.branches, self.family)
            centers = self.method.build_centers(infos)
            if centers:
                self.expert_centers.append(nn.ModuleList(center for center, _ in centers))
            of_block = [center for center, count in centers for _ in range(count)] or [None] * len(blocks)
            for block, info, center in zip(blocks, infos, of_block):
                block.fill(self.method, sites, info, center)
        self._roles = self._find_roles()

    def _find_roles(self) -> Dict[str, str]:
        """Name of each parameter and buffer -> what it is a part of."""
        owners = [(name + '.', ADAPTER) for name, _ in adapter_modules(self)]
        owners += [('expert_centers.', CENTER)] + [(name + '.', OUTPUT_NORM) for name in self.output_norms()]
        roles = {name: next((role for prefix, role in owners if name.startswith(prefix)), BASE)
                 for name in self.state_dict()}
        if self.method is not None:
            for path, module in self.named_modules():
                for name, _ in module.named_parameters(path, recurse=False):
                    if roles[name] == BASE and self.method.tunes(module, name.rpartition('.')[2]):
                        roles[name] = TUNED
        return roles

    def parameter_roles(self) -> Dict[str, str]:
        """Name of each parameter -> ``'base'``, ``'adapter'``, ``'center'``, ``'output_norm'``, or ``'tuned'``: a part of the
        base that starts from the base and trains with the method."""
        return {name: self._roles[name] for name, _ in self.named_parameters()}

    def frozen_names(self) -> List[str]:
        """Names of the frozen base's parameters and buffers in the state dict; none under full fine-tuning."""
        return [] if self.method is None else [name for name, role in self._roles.items() if role == BASE]

    def names_of(self, *roles: str) -> List[str]:
        """Names of the parameters and buffers of some roles in the state dict."""
        return [name for name, role in self._roles.items() if role in roles]

    # ---- base weights ----

    def _load_base_if_at_hand(self) -> None:
        if self.base_source is not None:
            return
        if self.base_checkpoint is None:
            self._warn('has no base_checkpoint')
        elif locate(self.base_checkpoint) is None:
            self._warn(f'did not find its base_checkpoint {self.base_checkpoint!r} yet')
        else:
            self.load_base()

    def _warn(self, what: str) -> None:
        print_log(f'{type(self).__name__} {what}: the first forward stops unless a base or a complete checkpoint has been '
                  'loaded by then.', logger='current', level=logging.WARNING)

    def load_base(self) -> None:
        """Load the base from ``base_checkpoint``, all of it or nothing.

        Raises:
            FileNotFoundError: if there is no such file and it cannot be fetched.
            ValueError: if the file is unreadable, or keys are missing, unexpected or of another shape.
        """
        self.check_unmerged('load its base')
        self._check_unshared('load a base')
        given = read_weights(fetch(self.base_checkpoint))
        others = families_of(given)
        if others and self.family not in others:
            raise ParameterError('base_checkpoint', self.base_checkpoint, f'{type(self).__name__} needs weights of a {self.family}, '
                            f'and these are of a {" or ".join(others)}')
        weights = self.fit_base(type(self).base_layout(given))
        base = {name: parameter for name, parameter in self.named_parameters() if self._roles[name] in (BASE, TUNED)}
        copy_base(base, weights, self.base_checkpoint, type(self).__name__)
        self.base_source = 'file'

    @torch.no_grad()
    def init_weights(self) -> None:
        """Load the base if that has not happened; only a random base gets upstream's initialisation."""
        self.check_unmerged('be initialised')
        self._check_unshared('be initialised')
        if self.base_source is None and self.base_checkpoint is not None:
            self.load_base()
        if self.base_source in ('file', 'checkpoint'):
            self._is_init = True
        if self._is_init:
            return
        super().init_weights()
        # Upstream's initialisation walks over every linear layer, those of the adapters too.
        centers = [center for stage in self.expert_centers for center in stage]
        for module in [module for _, module in adapter_modules(self)] + centers:
            module.reset_parameters()

    def _base(self) -> Dict[str, nn.Parameter]:
        """The frozen base; under full fine-tuning all of it."""
        return {name: parameter for name, parameter in self.named_parameters() if self._roles[name] == BASE}

    def check_state(self, given: Mapping[str, Any]) -> None:
        """Check that ``given``, without prefix, has all that trains, the base whole or not at all, and no more.

        mmengine never asks for a strict match, so its loading calls this (see ``checkpoint.loader``).

        Raises:
            InputError: naming the keys that are missing, of another shape or unexpected, or if the base is another.
        """
        base = self._base()
        buffers = {name for name, _ in self.named_buffers()} & {name for name, role in self._roles.items() if role == BASE}
        check_keys(type(self).__name__, given, self.state_dict(), base, buffers)
        if self.base_source is None and self.base_checkpoint is not None and not base.keys() <= given.keys():
            self.load_base()  # the checkpoint leaves the base to it
        self._check_same_base(given, base)

    def _check_same_base(self, given: Mapping[str, Any], base: Mapping[str, nn.Parameter]) -> None:
        if (self.base_source == 'file' or self.shared) and self.method is not None:
            check_same_base(type(self).__name__, self.base_checkpoint, given, base)

    def check_unmerged(self, action: str) -> None:
        """Raise InputError, saying that this backbone cannot ``action``, while its adapters are merged."""
        if self.merged:
            raise InputError(f'{type(self).__name__} cannot {action} while its adapters are merged into the frozen '
                                 'weights: call mmparax.unmerge_adapter(model) first.')

    def _check_unshared(self, action: str) -> None:
        if self.shared:
            raise InputError(f'{type(self).__name__} cannot {action}: its base is that of other models of an '
                                 'AdapterBank, too, and is there.')

    def _save_to_state_dict(self, *args: Any) -> None:
        self.check_unmerged('give its state dict (to save it, for example)')
        super()._save_to_state_dict(*args)

    def _check_claim(self, metadata: Mapping[str, Any]) -> None:
        """Check the base of a state dict without base by what it says of itself, unless that was done before."""
        claim = metadata.get(CLAIM)
        if claim is CHECKED:
            return
        known = claim if isinstance(claim, dict) else {}
        if known.get('fingerprint') and len(known.get('backbones') or ()) == 1:  # several have one fingerprint together
            from mmparax.checkpoint.fingerprint import check_fingerprint  # imports this module
            check_fingerprint(self, known, 'the state dict')
        else:
            print_log(f'{type(self).__name__} loads a state dict without a frozen base that does not say on which base it '
                      'was trained: that was not checked. Load the checkpoint by mmengine.runner.load_checkpoint, which does.',
                      logger='current', level=logging.WARNING)

    def _load_from_state_dict(self, state_dict: Dict[str, Any], prefix: str, local_metadata: Dict[str, Any],
                              *args: Any) -> None:
        self.check_unmerged('load a checkpoint')
        given = {name[len(prefix):]: value for name, value in state_dict.items() if name.startswith(prefix)}
        base = self._base()
        complete = all(getattr(given.get(name), 'shape', None) == parameter.shape for name, parameter in base.items())
        if not complete and self.base_source is None and self.base_checkpoint is not None:
            self.load_base()
        self._check_same_base(given, base)
        if complete:
            if self.base_source != 'file' and not self.shared:
                self.base_source = 'checkpoint'
            elif self.method is not None:
                # A checkpoint in half precision holds the base rounded: its own file is exact.
                state_dict.update({prefix + name: parameter.detach() for name, parameter in base.items()})
        elif self.base_source is not None and not base.keys() & given.keys():
            # A small checkpoint: the base that is there is not missing.
            if given and self.method is not None:
                self._check_claim(local_metadata)
            state = self.state_dict()
            state_dict.update({prefix + name: state[name] for name in self.frozen_names() if name not in given})
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    # ---- running ----

    @sum_expert_gradients_once
    def forward(self, x: Tensor) -> tuple:
        """Features of images (B, 3, H, W): one (B, C_i, H_i, W_i) for each of ``out_indices``."""
        self.check_base()
        if self.training:
            self.check_unmerged('train')
        least = self.smallest_side()
        if min(x.shape[-2:]) < least:
            raise ParameterError('image size', tuple(x.shape[-2:]), f'this {self.family} needs at least {least}x{least} pixels',
                            'Enlarge the images (Resize), or pad them (pad_size_divisor or size of the data_preprocessor).')
        return tuple(super().forward(x))

    def check_base(self) -> None:
        """Raise RandomBaseError if the base would run on random weights that nobody asked for."""
        if self.base_source is None:
            raise RandomBaseError(
                f'{type(self).__name__} would run on a random base: base_checkpoint={self.base_checkpoint!r} has not been '
                'loaded and no complete checkpoint either. Set base_checkpoint to the pre-trained file, or '
                'allow_random_base=True (with base_checkpoint=None) to run without one.')

    def train(self, mode: bool = True) -> nn.Module:
        """Set the mode of every module and return self (upstream returns None).

        The frozen base follows: its stochastic depth is part of each recipe.
        """
        super().train(mode)
        return self


class AdaRouteOptions:
    """Mixin before an adapted backbone: fixes the method to AdaRoute and opens its options at top level."""

    def __init__(self, *args: Any, **options: Any):
        if 'adapter' in options:
            general = next(cls.__name__ for cls in type(self).__mro__
                           if issubclass(cls, AdaptedBackbone) and not issubclass(cls, AdaRouteOptions))
            raise ParameterError('adapter', options['adapter'], f'{type(self).__name__} always has AdaRoute, whose options are '
                            'its own', f'Use {general} to choose a method.')
        check_options(type(self).__name__, options, self.known_options())
        own = {name: options.pop(name) for name in keyword_names(AdaRoute.__init__) if name in options}
        super().__init__(*args, adapter=dict(type=AdaRoute, **own), **options)

    @classmethod
    def known_options(cls) -> List[str]:
        return keyword_names(AdaRoute.__init__) + [name for name in super().known_options() if name != 'adapter']


def families_of(weights: Mapping[str, Any]) -> List[str]:
    """The families whose signature is among the keys of a base file."""
    pending, found = AdaptedBackbone.__subclasses__(), {}
    while pending:
        cls = pending.pop()
        pending += cls.__subclasses__()
        if 'signature' in vars(cls) and any(re.search(cls.signature, name) for name in weights):
            found[cls.family] = True
    return sorted(found)


def adapted_backbones(model: nn.Module) -> List[Tuple[str, AdaptedBackbone]]:
    """(name, backbone) of every backbone of mmparax in ``model``."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, AdaptedBackbone)]
