"""Whether the backbone, the neck and the heads of a model fit each other, seen before anything runs."""
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmparax.backbones.adapted import AdaptedBackbone
from mmparax.checks.parts import SEGMENTATION_HEADS, find_parts, is_dense
from mmparax.errors import ParameterError

# Options that make a backbone give vectors, and the value with which it gives maps.
MAPS = {'gap_before_final_norm': False, 'out_type': 'featmap'}
SIDE = 32  # of the largest map on which a neck is tried


def check_features(model: nn.Module) -> None:
    """Check that the backbone of a segmentor or detector gives the maps that its neck and heads take.

    Raises:
        ParameterError: naming the option with which it gives vectors, another number of maps or other channels.
    """
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, AdaptedBackbone) or not is_dense(model):
        return
    channels: list[int] | None = backbone.output_channels()
    if channels is None:
        option = next((name for name in MAPS if hasattr(backbone, name)), 'type')
        value = getattr(backbone, option, type(backbone).__name__)
        raise ParameterError(f'model.backbone.{option}', value,
                             f'{type(model).__name__} needs feature maps, and this backbone gives vectors or tokens',
                             f'Use model.backbone.{option}={MAPS[option]!r}.' if option in MAPS else '')
    given = f'the backbone gives {len(channels)} map(s), of {channels} channels (out_indices={list(model.backbone.out_indices)})'
    neck = getattr(model, 'neck', None)
    if neck is not None:
        for name, part in _list_necks(neck):
            _check_neck(f'model.{name}', part, channels, given)
            if name == 'neck':
                _check_start_level(backbone, part, channels)
            channels = _try_neck(part, channels)
            if channels is None:  # it needs more than maps
                return
            given = f'{name} gives {len(channels)} map(s), of {channels} channels'
    for name, head in find_parts(model, SEGMENTATION_HEADS):
        if hasattr(head, 'in_index') and hasattr(head, 'in_channels'):
            _check_inputs(f'model.{name}', head, channels, given)
    for name, decoder in find_parts(model, ('panoptic_head.pixel_decoder', 'decode_head.pixel_decoder')):
        _check_pixel_decoder(f'model.{name.partition(".")[0]}', decoder, channels, given)
    for name, head in find_parts(model, ('rpn_head', 'bbox_head')):
        _check_detection_head(f'model.{name}', head, channels, given)


# ---- necks ----


def _list_necks(neck: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, module) of a neck, or of each of several in a row."""
    if isinstance(neck, (nn.Sequential, nn.ModuleList)):
        yield from ((f'neck.{number}', part) for number, part in enumerate(neck))
    else:
        yield 'neck', neck


def _check_neck(name: str, neck: Any, channels: Sequence[int], given: str) -> None:
    expected = getattr(neck, 'in_channels', None)
    # Some necks list their inputs from the smallest map on.
    if isinstance(expected, (list, tuple)) and list(expected) not in (list(channels), list(channels)[::-1]):
        raise ParameterError(f'{name}.in_channels', list(expected), given, 'Set one to what the other says.')
    rescales = getattr(neck, 'rescales', None)
    if not isinstance(rescales, (list, tuple)):
        return
    # mmsegmentation's Feature2Pyramid, whose assertions have no text.
    if len(rescales) != len(channels):
        raise ParameterError(
            f'{name}.rescales', list(rescales), f'{given}, and every map needs its scale',
            f'Let it have {len(channels)} entries, or '
            f'set model.backbone.out_indices to {len(rescales)} of its blocks.')
    scaled = next((module for module in neck.modules() if isinstance(module, nn.ConvTranspose2d)), None)
    if scaled is not None and set(channels) != {scaled.in_channels}:
        raise ParameterError(
            f'{name}.embed_dim', scaled.in_channels, given, 'It takes the maps of a plain ViT, which all have the '
            f'same channels: set it to {channels[0]}.' if len(set(channels)) == 1 else
            'It takes the maps of a plain ViT, which all have the same channels; leave it out for a pyramid.')


def _check_start_level(backbone: AdaptedBackbone, neck: nn.Module, channels: list[int]) -> None:
    """Raise ParameterError if a pyramid leaves out maps whose norms are trainable: they would get no gradient."""
    start = getattr(neck, 'start_level', 0)
    if not isinstance(start, int) or not 0 < start < len(channels) or list(neck.in_channels) != channels:
        return
    norms = backbone.output_norms()[:start]
    if any(parameter.requires_grad for name in norms for parameter in getattr(backbone, name).parameters()):
        raise ParameterError(
            'model.neck.start_level', start, f'the neck leaves out the first {start} map(s) of the backbone, whose output norms '
            'would get no gradient', f'Use model.backbone.out_indices={tuple(backbone.out_indices)[start:]}, '
            f'model.neck.in_channels={channels[start:]} and model.neck.start_level=0.')


@torch.no_grad()
def _try_neck(neck: nn.Module, channels: Sequence[int]) -> list[int] | None:
    """Channels of what a neck makes of maps of such channels; None if it takes something else than a tuple of maps."""
    parameter = next(neck.parameters(), torch.zeros(()))
    pyramid = len(set(channels)) > 1
    sides = [max(SIDE >> (number if pyramid else 1), 4) for number in range(len(channels))]
    maps = [
        torch.zeros(1, width, side, side, device=parameter.device, dtype=parameter.dtype) for width, side in zip(channels, sides)
    ]
    modes = [(module, module.training) for module in neck.modules()]
    try:
        outputs = neck.eval()(tuple(maps))
    except Exception:  # whatever it wants: the first step will tell
        return None
    finally:
        for module, mode in modes:
            module.training = mode
    if isinstance(outputs, Tensor):
        outputs = (outputs, )
    if not isinstance(outputs, (list, tuple)) or not all(isinstance(map_, Tensor) and map_.ndim == 4 for map_ in outputs):
        return None
    return [map_.shape[1] for map_ in outputs]


# ---- heads ----


def _check_inputs(name: str, head: nn.Module, channels: Sequence[int], given: str) -> None:
    several = isinstance(head.in_index, (list, tuple))
    indices = list(head.in_index) if several else [head.in_index]
    if any(not -len(channels) <= index < len(channels) for index in indices):
        raise ParameterError(f'{name}.in_index', head.in_index, given, 'Change in_index, or model.backbone.out_indices.')
    widths: Any = [channels[index] for index in indices]
    if not several or getattr(head, 'input_transform', None) == 'resize_concat':
        widths = sum(widths)
    expected = list(head.in_channels) if isinstance(head.in_channels, (list, tuple)) else head.in_channels
    if expected != widths:
        raise ParameterError(f'{name}.in_channels', expected, given, f'With in_index={head.in_index} it must be {widths}.')


def _check_pixel_decoder(name: str, decoder: Any, channels: Sequence[int], given: str) -> None:
    """Check the decoders of MaskFormer and Mask2Former, which take every map."""
    expected = getattr(decoder, 'in_channels', None)
    if expected is None and hasattr(decoder, 'input_convs') and hasattr(decoder, 'lateral_convs'):
        # From the smallest map on: those of the attention, then those that are only added.
        convolutions = [getattr(part, 'conv', part) for part in (*decoder.input_convs, *decoder.lateral_convs)]
        expected = [convolution.in_channels for convolution in convolutions][::-1]
    if isinstance(expected, (list, tuple)) and list(expected) != list(channels):
        raise ParameterError(f'{name}.in_channels', list(expected), given, 'Set one to what the other says.')
    strides = getattr(decoder, 'strides', None)
    if isinstance(strides, (list, tuple)) and len(strides) != len(channels):
        raise ParameterError(f'{name}.pixel_decoder.strides', list(strides), given, 'Give a stride for each map.')


def _check_detection_head(name: str, head: Any, channels: Sequence[int], given: str) -> None:
    """Check the heads over a pyramid, which take every map with the same layers."""
    width, generator = getattr(head, 'in_channels', None), getattr(head, 'prior_generator', None)
    if isinstance(width, int) and generator is not None and set(channels) != {width}:
        raise ParameterError(f'{name}.in_channels', width, given, 'Set it, and out_channels of the neck, to one number.')
    levels = getattr(generator, 'num_levels', None)
    if isinstance(levels, int) and levels != len(channels):
        place = f'{name}.{"anchor_generator" if hasattr(generator, "base_anchors") else "prior_generator"}.strides'
        raise ParameterError(place, [stride[0] if isinstance(stride, (list, tuple)) else stride for stride in generator.strides],
                             given, "Give a stride for each map (the neck's num_outs says how many there are).")
