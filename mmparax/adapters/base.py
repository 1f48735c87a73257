"""The contract between methods and backbones: a method says which sites it takes and builds a module for each.

A *site* is a place in a block where a method may act. The module at a site has this signature:

===================================================  ==============================================================
site                                                 module
===================================================  ==============================================================
``after_token_mixer``, ``after_channel_mixer``,      ``(x (B, N, C), (H, W)) -> (B, N, C)`` on the residual stream
``after_block``
``token_mixer_branch``, ``channel_mixer_branch``     the same on the branch, before the residual sum
``channel_mixer_parallel``, ``block_parallel``       reads the stream before the branch's norm (the block's input);
                                                     what it returns is added to the sum
``linear:q``, ``k``, ``v``, ``proj``, ``fc1``,       ``(x (..., in), y (..., out)) -> (..., out)``, where ``y`` is
``fc2``                                              the frozen linear map of ``x``
``prompts``                                          ``() -> (n, C)``: extra tokens for the block's attention
===================================================  ==============================================================

A module at a stream site that treats each token by itself may set ``per_token = True``. It then gets class and register
tokens, too, so that N is not H*W. Others get the H*W tokens of the map alone.

A module at a ``linear:`` site that is linear in x and the same for every input may have ``weight_update() -> (out, in)``, the
matrix that it adds to the frozen weight. It can then be merged into it.

Backbones know this table and no method; methods know it and no backbone.
"""
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mmparax.errors import InputError, ParameterError, check_number, check_options
from mmparax.registry import MODELS
from mmparax.utils.signatures import get_keyword_defaults, list_keywords

STREAM_SITES = ('after_token_mixer', 'after_channel_mixer', 'after_block', 'token_mixer_branch', 'channel_mixer_branch',
                'channel_mixer_parallel', 'block_parallel')
LINEAR_SITES = ('linear:q', 'linear:k', 'linear:v', 'linear:proj', 'linear:fc1', 'linear:fc2')
PROMPT_SITE = 'prompts'


@dataclass(frozen=True)
class BlockInfo:
    """What a method may know of the block that it adapts.

    Attributes:
        dim: channels C of the residual stream.
        depth: number of blocks in the stage.
        index: position of the block in its stage, from 0.
        stage: index of the stage, from 0.
        family: name of the backbone family, for messages only.
        ffn_dim: hidden channels of the channel mixer.
        embed_dim: channels after the patch embedding (C of stage 0).
        patch_size: side of a patch in pixels.
        linear_init: how the family initialises linear and conv layers, ``'kaiming_uniform'`` or ``'trunc_normal'``.
    """
    dim: int
    depth: int
    index: int
    stage: int
    family: str
    ffn_dim: int
    embed_dim: int
    patch_size: int
    linear_init: str = 'kaiming_uniform'

    def features(self, site: str) -> tuple[int, int]:
        """(input, output) features of a ``linear:`` site."""
        return {'linear:fc1': (self.dim, self.ffn_dim), 'linear:fc2': (self.ffn_dim, self.dim)}.get(site, (self.dim, self.dim))


def init_linear(weight: Tensor) -> None:
    """Initialise the weight of a linear map or convolution as PyTorch does: uniform within ±1/sqrt(fan-in)."""
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5))


def check_dropout(value: Any) -> float:
    """Return a share of activations to drop, at least 0 and below 1, else raise ParameterError."""
    if not 0 <= check_number('dropout', value) < 1:
        raise ParameterError('dropout', value, 'it must be at least 0 and below 1')
    return float(value)


class Method:
    """Base of all methods: a recipe that builds modules, itself without parameters.

    Args:
        sites: overrides where the method acts; by default ``two_branch_sites`` in blocks with a token mixer and a
            channel mixer (Swin, ViT) and ``one_branch_sites`` in blocks with a single residual branch (ConvNeXt).

    Attributes:
        config: type and every option of the method, defaults included, if it was built from a config.

    Class attributes:
        possible_sites: those whose signature the method's modules have.
        two_branch_sites, one_branch_sites: the defaults above.
        not_mergeable: why modules without ``weight_update`` cannot become a part of the frozen weights, a clause.

    Raises:
        ParameterError: for ``sites`` that the method cannot take.
    """
    not_mergeable: str = 'its modules are no linear maps beside frozen ones'
    possible_sites: tuple[str, ...] = STREAM_SITES
    two_branch_sites: tuple[str, ...] = ()
    one_branch_sites: tuple[str, ...] = ()

    def __init__(self, sites: Sequence[str] | None = None):
        self.config: dict[str, Any] = dict(type=type(self).__name__)
        if sites is not None:
            sites = (sites, ) if isinstance(sites, str) else tuple(sites)
            unknown = [site for site in sites if site not in self.possible_sites]
            if unknown or not sites or len(set(sites)) < len(sites):
                raise ParameterError(
                    'sites', list(sites), f'{type(self).__name__} takes one or more of '
                    f'{", ".join(self.possible_sites)}, each once')
        self.sites = sites

    def select_sites(self, offered: Sequence[str], branches: int, family: str) -> tuple[str, ...]:
        """Return the sites to fill in a block of ``family`` that offers ``offered``.

        Raises:
            InputError: if the method has no site in such a block.
        """
        name = type(self).__name__
        default = self.two_branch_sites if branches == 2 else self.one_branch_sites
        wanted = self.sites or default
        missing = [site for site in wanted if site not in offered]
        if missing or not wanted:
            raise InputError(f'{name} cannot adapt {family}: ' + (
                f'the site {missing[0]!r} does not exist in its blocks' if missing else 'it has no site in its blocks')
                             + f', which offer {", ".join(offered)}. Choose another method or give sites=(...).')
        return wanted

    def tunes(self, module: nn.Module, name: str) -> bool:
        """Whether the parameter ``name`` of ``module``, a part of the base, is trainable, too, from its pre-trained value."""
        return False

    def build_centers(self, blocks: Sequence[BlockInfo]) -> list[tuple[nn.Module, int]]:
        """Build what the blocks of one stage share: (module, number of consecutive blocks that use it), in order."""
        return []

    def build(self, site: str, block: BlockInfo, center: nn.Module | None) -> nn.Module:
        """Build the module for one site of one block; it must have ``reset_parameters()``."""
        raise NotImplementedError


def build_method(cfg: Mapping[str, Any]) -> Method:
    """Build a method from its config, for example ``dict(type='mmparax.AdaRoute', hidden_dim=64)``.

    Raises:
        ParameterError: if the type is no method of mmparax; it lists the methods.
        InputError: if an option is unknown or wrong; it lists the known ones.
    """
    if isinstance(cfg, Method):
        return cfg
    MODELS.import_from_location()
    methods = {name: cls for name, cls in MODELS.module_dict.items() if isinstance(cls, type) and issubclass(cls, Method)}
    if not isinstance(cfg, Mapping) or 'type' not in cfg:
        raise ParameterError('adapter', cfg, "it must be None (full fine-tuning) or a dict such as "
                             "dict(type='mmparax.AdaRoute')", f'Methods: {", ".join(sorted(methods))}.')
    options = dict(cfg)
    options.pop('_delete_', None)  # mmengine leaves it where the base config has no adapter to delete
    kind = options.pop('type')
    if isinstance(kind, str):
        cls = methods.get(kind[len('mmparax.'):] if kind.startswith('mmparax.') else kind)
    else:
        cls = kind if isinstance(kind, type) and issubclass(kind, Method) else None
    if cls is None:
        raise ParameterError('adapter.type', kind, f'the methods are {", ".join("mmparax." + name for name in sorted(methods))}')
    check_options(
        f'the adapter {cls.__name__}', options, list_keywords(cls),
        'If it comes from a base config whose adapter has another type, add _delete_=True to the dict that '
        'replaces it.')
    method = cls(**options)
    method.config = {'type': cls.__name__, **get_keyword_defaults(cls), **options}
    return method
