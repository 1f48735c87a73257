"""What does not fit a backbone is refused in one sentence, for every family."""
from itertools import permutations

import pytest
import torch

from helpers.cases import BACKBONES, build
from mmparax.backbones import AdaptedConvNeXt, AdaptedSwin, AdaptedViT
from mmparax.backbones.base_weights import BaseSource

FAMILY = {'swin': 'Swin', 'convnext': 'ConvNeXt', 'vit': 'ViT', 'mit': 'MiT'}


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('bases')
    for backbone in BACKBONES:
        torch.save({'state_dict': build('frozen', backbone).state_dict()}, folder / f'{backbone}.pth')
    return folder


@pytest.mark.parametrize('backbone, other', permutations(BACKBONES, 2))
def test_the_base_of_another_family_is_called_so(backbone, other, files):
    message = fr'needs weights of a {FAMILY[backbone]}, and these are of a {FAMILY[other]}\.'
    with pytest.raises(ValueError, match=f"base_checkpoint='.*{other}.pth'.*{message}"):
        build('frozen', backbone, base_checkpoint=str(files / f'{other}.pth'), allow_random_base=False)


@pytest.mark.parametrize('backbone', BACKBONES)
def test_its_own_base_is_not(backbone, files):
    model = build('frozen', backbone, base_checkpoint=str(files / f'{backbone}.pth'), allow_random_base=False)
    assert model.base_source is BaseSource.FILE


@pytest.mark.parametrize('indices', [(0, 9), (9, ), 9, (1, 0), (0, 0), (-1, 0), ()], ids=str)
@pytest.mark.parametrize('backbone', BACKBONES)
def test_outputs_that_do_not_exist_are_named(backbone, indices):
    message = rf'out_indices=.* is not allowed: this {FAMILY[backbone]} has the outputs 0 to \d, each'
    with pytest.raises(ValueError, match=message):
        build('frozen', backbone, out_indices=indices)


@pytest.mark.parametrize('given, expected', [(-1, (3, )), ([-1], (3, )), ([1, -1], (1, 3)), (2, (2, )), ((0, 3), (0, 3))],
                         ids=str)
@pytest.mark.parametrize('backbone', ['swin', 'convnext', 'vit'])
def test_outputs_may_be_counted_from_the_end(backbone, given, expected):
    assert tuple(build('frozen', backbone, out_indices=given).out_indices) == expected


@pytest.mark.parametrize('cls', [AdaptedSwin, AdaptedConvNeXt, AdaptedViT])
def test_archs_are_known_by_name(cls):
    with pytest.raises(ValueError, match="arch='enormous' is not allowed: .* has the archs '.*'base'.*, or a dict of its own"):
        cls(arch='enormous', allow_random_base=True)


@pytest.mark.parametrize('backbone', ['swin', 'convnext', 'vit'])
def test_frozen_stages_and_an_adapter_exclude_each_other(backbone):
    with pytest.raises(ValueError, match='frozen_stages=2 is not allowed: .*Remove frozen_stages'):
        build('frozen', backbone, frozen_stages=2)


@pytest.mark.parametrize('cls, options, side', [(AdaptedSwin, dict(arch='tiny', out_indices=(3, )), 193),
                                                (AdaptedConvNeXt, dict(arch='atto', out_indices=(0, 1, 2, 3)), 32),
                                                (AdaptedConvNeXt, dict(arch='atto', out_indices=(0, 1), stem_patch_size=2), 16)],
                         ids=str)
def test_the_smallest_image_is_exact(cls, options, side):
    model = cls(adapter=dict(type='mmparax.Frozen'), allow_random_base=True, **options).eval()
    with torch.no_grad():
        model(torch.randn(1, 3, side, side))
    for size in ((side - 1, side), (side, side - 1), (1, 1)):
        message = rf'image size=\({size[0]}, {size[1]}\).* needs at least {side}x{side} pixels.*Resize'
        with pytest.raises(ValueError, match=message):
            model(torch.randn(1, 3, *size))


def test_frozen_stages_of_full_fine_tuning_are_upstream_s():
    model = AdaptedViT(arch='deit-tiny', allow_random_base=True, frozen_stages=2)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not any(name.startswith(('patch_embed', 'cls_token', 'pos_embed', 'layers.0.', 'layers.1.')) for name in trainable)
    assert any(name.startswith('layers.2.') for name in trainable)
    assert all(parameter.requires_grad for parameter in AdaptedViT(arch='deit-tiny', allow_random_base=True).parameters())
