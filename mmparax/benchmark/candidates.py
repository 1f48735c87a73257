"""What the benchmark compares: backbones with each method, in the sizes of the shipped configs, and without a method."""
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mmengine.registry import MODELS
from torch import nn

from mmparax import adapters
from mmparax.adapters.base import Method, build_method
from mmparax.benchmark.mini_sizes import resize_adapter
from mmparax.benchmark.parameter_counts import ParameterCounter
from mmparax.benchmark.plain_adapters import PlainAdaRoute, PlainMona
from mmparax.config.shipped import read_config, resolve_config
from mmparax.errors import ParameterError
from mmparax.utils.signatures import list_keywords

FULL = 'full'
RANDOM_BASE = dict(base_checkpoint=None, allow_random_base=True)
ALIASES = {'vit-b': 'vit-b16'}
# Backbone -> the shipped configs that have it, with a place for the method.
CONFIGS = {
    'swin-b': 'semantic_segmentation/upernet_swin-b_{}_4xb4-160k_ade20k-512x512.py',
    'swin-l': 'semantic_segmentation/upernet_swin-l_{}_4xb4-160k_ade20k-512x512.py',
    'convnext-b': 'semantic_segmentation/upernet_convnext-b_{}_4xb4-160k_ade20k-512x512.py',
    'convnext-l': 'semantic_segmentation/upernet_convnext-l_{}_4xb4-160k_ade20k-512x512.py',
    'vit-b16': 'classification/vit-b16_{}_4xb256-100e_cifar100.py',
    'swin-mini': 'quickstart/upernet_swin-mini_{}_1xb8-500_scenes-128x128.py',
    'convnext-mini': 'quickstart/mask-rcnn_convnext-mini_{}_1xb8-400_scenes-128x128.py',
    'vit-mini': 'quickstart/vit-mini_{}_1xb32-800_scenes-32x32.py',
}
# Mini backbone -> the backbone whose configs have the other options of its methods.
FULL_SCALE = {'swin-mini': 'swin-b', 'convnext-mini': 'convnext-b', 'vit-mini': 'vit-b16'}
# Variant of a method -> (method whose size it has, options that differ).
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    'adaroute-no-conv': ('adaroute', dict(kernel_sizes=())),
    'plain-adaroute': ('adaroute', dict(type=PlainAdaRoute)),
    'plain-mona': ('mona', dict(type=PlainMona)),
}
PLAIN = ('plain-adaroute', 'plain-mona')
WITH_BACKENDS = ('adaroute', 'adaroute-no-conv')  # those whose operations run by several backends
# Table 11 of the paper: images per second of a training step of Swin-L's backbone, 1280x800, batch 4, on an NVIDIA L40S.
TABLE_11 = {
    'full': 4.63, 'lora': 4.07, 'adaptformer': 5.15, 'lorand': 5.11, 'mona': 3.94, 'adaroute-no-conv': 4.96, 'adaroute': 3.96
}
TABLE_11_SETTING = ('swin-l', (800, 1280), 4)


@dataclass(frozen=True)
class Candidate:
    """One row of the benchmark.

    Attributes:
        method: its name.
        build: makes the backbone, on the CPU.
        dtype: ``'fp32'``, or ``'fp16'`` or ``'bf16'`` by automatic mixed precision.
        ops: one of ``mmparax.ops.dispatch.BACKENDS``, or None for a method without such operations.
        efficient_attention: whether the attention of the frozen base is the efficient one; None where there is no choice.
        published: the ratio to full fine-tuning that the paper prints for this setting.
    """
    method: str
    build: Callable[[], nn.Module]
    dtype: str = 'fp32'
    ops: str | None = None
    efficient_attention: bool | None = None
    published: float | None = None

    @property
    def label(self) -> str:
        attention = {None: None, True: 'efficient attention', False: "upstream's attention"}[self.efficient_attention]
        return ', '.join(filter(None, (self.method, attention, self.ops and f'{self.ops} ops', self.dtype)))


def find_method_classes() -> dict[str, str]:
    """Name of a method, which is that of its file in ``mmparax/adapters``, -> name of its class."""
    classes = [value for value in vars(adapters).values() if isinstance(value, type) and issubclass(value, Method)]
    return {cls.__module__.rpartition('.')[2]: cls.__name__ for cls in classes if cls is not Method}


def list_methods() -> list[str]:
    """All that can be compared: full fine-tuning, every method, and the variants."""
    return [FULL, *sorted(find_method_classes()), *VARIANTS]


def list_backbones() -> list[str]:
    """All backbones that can be compared."""
    return list(CONFIGS)


def check_names(parameter: str, values: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the names, each once, or raise ParameterError listing the known ones."""
    for value in values:
        if value not in known:
            raise ParameterError(parameter, value, f'known are {", ".join(known)}')
    return list(dict.fromkeys(values))


def read_backbone_config(backbone: str) -> dict[str, Any]:
    """The backbone of a shipped config, random and without adapter."""
    config = read_config(CONFIGS[backbone].format(FULL)).model.backbone.to_dict()
    return {**{name: value for name, value in config.items() if name != 'adapter'}, **RANDOM_BASE}


def read_adapter_config(backbone: str, method: str) -> dict[str, Any] | None:
    """The adapter of a method in the size that it has on a backbone.

    A shipped config gives the size. Without one, a mini backbone's methods have the sizes of the tables at tiny scale, and
    any other method has its defaults.
    """
    original, changes = VARIANTS.get(method, (method, {}))
    adapter = _read_adapter(backbone, original)
    return None if adapter is None else {**adapter, **changes}


@functools.lru_cache(None)
def _read_adapter(backbone: str, method: str) -> dict[str, Any] | None:
    for source in (backbone, FULL_SCALE.get(backbone)):
        if source and resolve_config(CONFIGS[source].format(method)).is_file():
            config = read_config(CONFIGS[source].format(method)).model.backbone.adapter
            adapter = None if config is None else config.to_dict()
            if source == backbone:
                return adapter
            return resize_adapter(ParameterCounter(), read_backbone_config(backbone), adapter)
    return dict(type=f'mmparax.{find_method_classes()[method]}')


def choose_size(backbone: str) -> tuple[int, int]:
    """(H, W) in pixels: that of the position embedding if there is one, else 128x128 for a mini backbone, 320x320 for another."""
    side = read_backbone_config(backbone).get('img_size') or (128 if backbone.endswith('mini') else 320)
    return side, side


def build_backbone(backbone: str, method: str, size: tuple[int, int], efficient_attention: bool | None,
                   with_cp: bool) -> nn.Module:
    """Build a backbone with a method; for ``'full'`` upstream's own, unmodified and fully trainable.

    Raises:
        ParameterError: if activations are to be recomputed and upstream's backbone cannot.
    """
    config = read_backbone_config(backbone)
    cls = MODELS.get(config.pop('type'))
    if 'img_size' in config:
        config['img_size'] = size
    if with_cp:
        if method == FULL and 'with_cp' not in list_keywords(cls.upstream):
            raise ParameterError('with_cp', True, f'upstream\'s {cls.family} cannot recompute activations')
        config['with_cp'] = True
    if efficient_attention is not None:
        config['efficient_attention'] = efficient_attention
    if method == FULL:
        options = {name: value for name, value in config.items() if name not in RANDOM_BASE}
        return cls.upstream(**{**cls.upstream_defaults(options), **options})
    return cls(adapter=build_method(read_adapter_config(backbone, method)), **config)


def has_efficient_attention(backbone: str) -> bool:
    """Whether the family of a backbone has an efficient attention for its frozen base."""
    return 'efficient_attention' in MODELS.get(read_backbone_config(backbone)['type']).known_options()


def find_published_ratio(backbone: str, size: tuple[int, int], batch: int, method: str) -> float | None:
    """Throughput of a method over full fine-tuning's in the paper's Table 11; None for other settings."""
    same = (backbone, tuple(sorted(size)), batch) == TABLE_11_SETTING  # windows are square: landscape or portrait costs the same
    return TABLE_11[method] / TABLE_11[FULL] if same and method in TABLE_11 else None


def list_candidates(backbone: str, methods: Sequence[str], size: tuple[int, int], batch: int, dtypes: Sequence[str],
                    ops: Sequence[str], efficient_attention: Sequence[bool], with_cp: bool = False) -> list[Candidate]:
    """Every combination that makes a difference: the plain references keep upstream's attention and have one backend.

    Args:
        backbone: one of :func:`list_backbones`.
        methods: some of :func:`list_methods`.
        size: (H, W) in pixels.
        batch: images in a step.
        dtypes: ``'fp32'``, ``'fp16'``, ``'bf16'``.
        ops: backends of the adapters' operations.
        efficient_attention: on, off or both, for adapted backbones.
        with_cp: recompute activations in the backward pass.
    """
    rows = []
    choice = has_efficient_attention(backbone)
    for dtype in dtypes:
        for method in methods:
            choices: Sequence[bool | None] = [None]
            if choice and method != FULL:
                choices = [False] if method in PLAIN else efficient_attention
            for efficient in choices:
                for backend in ops if method in WITH_BACKENDS else [None]:
                    make = functools.partial(build_backbone, backbone, method, size, efficient, with_cp)
                    published = find_published_ratio(backbone, size, batch, method)
                    rows.append(Candidate(method, make, dtype, backend, efficient, published))
    return rows
