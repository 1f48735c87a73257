"""What every adapted backbone shares: building upstream's class, inserting adapters, freezing, and running."""
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from mmparax.adapters.adaroute import AdaRoute
from mmparax.adapters.base import BlockInfo, build_method
from mmparax.backbones.base_weights import BaseSource, BaseWeights
from mmparax.backbones.block import AdaptedBlock
from mmparax.backbones.options import check_backbone_options, drop_empty_pretrained
from mmparax.backbones.roles import Role, find_roles
from mmparax.errors import ParameterError, UpstreamChangedError, check_options
from mmparax.ops.functional import sum_expert_gradients_once
from mmparax.utils.signatures import get_keyword_defaults, list_keywords


class AdaptedBackbone(BaseWeights):
    """Mixin before an upstream backbone class: builds it, swaps its blocks, fills their sites, freezes the base.

    Everything is decided in ``__init__``, because the runner wraps the model for several processes and builds the
    optimizer before any hook runs. A family says where its blocks are and what they offer; its methods stand under
    "what a family gives". :class:`BaseWeights` has the weights of the base.

    Class attributes:
        upstream: the toolbox's backbone class.
        block_class: what its blocks become.
        no_frozen_stages: the value of ``frozen_stages`` with which upstream freezes nothing.

    Attributes:
        upstream_options: all options of upstream's class, defaults included.
        expert_centers: what the blocks of each stage share (:class:`AdaRoute`), registered here once.

    Args:
        adapter: config of a method; None for full fine-tuning (everything is trainable, upstream's function bit for bit).
        base_checkpoint: path or URL of the pre-trained weights of the base.
        allow_random_base: permit a base without pre-trained weights; only without ``base_checkpoint``.

    Raises:
        InputError: for an unknown or wrong option, or a base checkpoint that does not fit.
        UpstreamChangedError: if the toolbox has other code than mmparax extends.
    """
    upstream: ClassVar[type]
    block_class: ClassVar[type[AdaptedBlock]]
    no_frozen_stages: ClassVar[int] = -1

    def __init__(self, *args: Any, adapter: Mapping[str, Any] | None = None, base_checkpoint: str | None = None,
                 allow_random_base: bool = False, **options: Any):
        options = drop_empty_pretrained(options)
        check_options(type(self).__name__, options, self.known_options())
        options = check_backbone_options(options, self.upstream, self.family, frozen=adapter is not None,
                                         no_frozen_stages=self.no_frozen_stages)
        method = None if adapter is None else build_method(adapter)
        options = {**self.upstream_defaults(options), **options}
        super().__init__(*args, **options)
        self.upstream_options = {
            **get_keyword_defaults(self.upstream), **options, **dict(zip(list_keywords(self.upstream), args))
        }
        self.base_checkpoint = None if base_checkpoint is None else str(base_checkpoint)
        self.allow_random_base = allow_random_base
        self.base_source = BaseSource.RANDOM if allow_random_base and base_checkpoint is None else None
        self.method = method
        self.expert_centers = nn.ModuleList()
        self._insert_adapters()
        self._roles = find_roles(self, self.output_norms(), method)
        if method is None:
            self._freeze_early_stages()
        else:
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(self._roles[name] is not Role.BASE)
        self._load_base_if_at_hand()

    # ---- what a family gives ----

    def stage_blocks(self) -> list[list[nn.Module]]:
        """The blocks of each stage."""
        raise NotImplementedError

    def block_info(self, block: nn.Module, stage: int, index: int) -> BlockInfo:
        """What a method may know of a block."""
        raise NotImplementedError

    def output_norms(self) -> list[str]:
        """Names of the norms on the outputs; they start fresh and are trainable with every method."""
        raise NotImplementedError

    def output_channels(self) -> list[int] | None:
        """Channels of each output map, or None if the outputs are vectors or tokens, which dense heads cannot take."""
        raise NotImplementedError

    def smallest_side(self) -> int:
        """Height and width in pixels below which upstream's layers fail."""
        return 1

    @classmethod
    def upstream_defaults(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Defaults that differ from upstream's, given the options that the user set."""
        return {}

    @classmethod
    def known_options(cls) -> list[str]:
        """Names of all options of the class, upstream's among them."""
        return list_keywords(AdaptedBackbone, cls.upstream)

    # ---- construction ----

    def _insert_adapters(self) -> None:
        """Swap every block and fill the sites that the method takes."""
        for stage, blocks in enumerate(self.stage_blocks()):
            infos = [self.block_info(block, stage, index) for index, block in enumerate(blocks)]
            for block in blocks:
                self.block_class.swap(block)
            if self.method is None:
                continue
            sites = self.method.select_sites(blocks[0].list_sites(), self.block_class.branches, self.family)
            centers = self.method.build_centers(infos)
            if centers:
                self.expert_centers.append(nn.ModuleList(center for center, _ in centers))
            of_block = [center for center, count in centers for _ in range(count)] or [None] * len(blocks)
            for block, info, center in zip(blocks, infos, of_block):
                block.fill(self.method, sites, info, center)

    def _freeze_early_stages(self) -> None:
        """Obey ``frozen_stages`` at once: upstream does so only in ``train()``, after the optimizer was built."""
        if getattr(self, 'frozen_stages', self.no_frozen_stages) == self.no_frozen_stages:
            return
        freeze = getattr(self, '_freeze_stages', None)
        if freeze is None:
            raise UpstreamChangedError(f'{self.upstream.__module__}.{self.upstream.__name__} takes frozen_stages, and has no '
                                       '_freeze_stages() any more: install the versions in requirements.txt.')
        freeze()

    # ---- running ----

    @sum_expert_gradients_once
    def forward(self, x: Tensor) -> tuple:
        """Return the features of images (B, 3, H, W): one (B, C_i, H_i, W_i) for each of ``out_indices``.

        Raises:
            RandomBaseError: if the base would run on random weights that nobody asked for.
            InputError: for images below :meth:`smallest_side`, or in training while adapters are merged.
        """
        self.check_base()
        if self.training:
            self.check_unmerged('train')
        least = self.smallest_side()
        if min(x.shape[-2:]) < least:
            raise ParameterError('image size', tuple(x.shape[-2:]), f'this {self.family} needs at least {least}x{least} pixels',
                                 'Enlarge the images (Resize), or pad them (pad_size_divisor or size of the data_preprocessor).')
        return tuple(super().forward(x))

    def train(self, mode: bool = True) -> nn.Module:
        """Set the mode of every module and return self (upstream returns None).

        The frozen base follows: its stochastic depth is part of each recipe.
        """
        super().train(mode)
        return self


if TYPE_CHECKING:
    _Mixed = AdaptedBackbone
else:
    _Mixed = object


class AdaRouteOptions(_Mixed):
    """Mixin before an adapted backbone: fixes the method to AdaRoute and opens its options at top level."""

    def __init__(self, *args: Any, **options: Any):
        if 'adapter' in options:
            general = next(cls.__name__ for cls in type(self).__mro__ if not issubclass(cls, AdaRouteOptions))
            raise ParameterError('adapter', options['adapter'], f'{type(self).__name__} always has AdaRoute, whose options are '
                                 'its own', f'Use {general} to choose a method.')
        options = drop_empty_pretrained(options)
        check_options(type(self).__name__, options, self.known_options())
        own = {name: options.pop(name) for name in list_keywords(AdaRoute) if name in options}
        super().__init__(*args, adapter=dict(type=AdaRoute, **own), **options)

    @classmethod
    def known_options(cls) -> list[str]:
        """Names of all options of the class: AdaRoute's, then the backbone's without ``adapter``."""
        return list_keywords(AdaRoute) + [name for name in super().known_options() if name != 'adapter']


def find_adapted_backbones(model: nn.Module) -> list[tuple[str, AdaptedBackbone]]:
    """(name, backbone) of every backbone of mmparax in ``model``."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, AdaptedBackbone)]
