"""The adapted backbones against the public implementation (float64), from base checkpoints in their authors' layouts."""
import pytest
import torch

from helpers.golden_files import Golden
from mmparax.backbones import AdaptedConvNeXt, AdaptedSwin, AdaptedViT

FROZEN = dict(type='mmparax.Frozen')


def swin(golden):
    return dict(
        arch=dict(embed_dims=golden['config.embed_dims'], depths=list(golden['config.depths']),
                  num_heads=list(golden['config.num_heads'])), out_indices=(0, 1, 2, 3), drop_path_rate=0.)


def convnext(golden):
    return dict(arch=dict(channels=list(golden['config.channels']), depths=list(golden['config.depths'])),
                out_indices=(0, 1, 2, 3), drop_path_rate=0.)


def vit(golden):
    width = golden['config.embed_dims']
    return dict(
        arch=dict(embed_dims=width, num_layers=golden['config.num_layers'], num_heads=golden['config.num_heads'],
                  feedforward_channels=4 * width), img_size=golden['config.img_size'], patch_size=golden['config.patch_size'])


# id -> (class, options from the golden's config, number of outputs, sites)
FAMILIES = {
    'swin': (AdaptedSwin, swin, 4, ('after_token_mixer', 'after_channel_mixer')),
    'convnext': (AdaptedConvNeXt, convnext, 4, ('after_block', )), 'vit': (AdaptedViT, vit, 1, ('after_channel_mixer', ))
}


@pytest.fixture(scope='module', params=FAMILIES)
def family(request):
    return (*FAMILIES[request.param], Golden(f'backbone_{request.param}'))


@pytest.fixture(autouse=True)
def double():
    """Build models in float64, so that base weights are not rounded on loading."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def build(family, folder, adapter, **options):
    cls, read_options, _, _, golden = family
    path = folder / 'base.pth'
    torch.save({'model': golden.group('base.')}, path)
    model = cls(adapter=adapter, base_checkpoint=str(path), **read_options(golden), **options).eval()
    for name in model.output_norms():
        getattr(model, name).load_state_dict(golden.group(f'output_norm.{name[len("norm"):]}.'))
    return model


def assert_outputs(model, golden, kind, count):
    outputs = model(golden['input'])
    assert len(outputs) == count
    for i, out in enumerate(outputs):
        torch.testing.assert_close(out, golden[f'{kind}.{i}'], rtol=0, atol=1e-8)


@pytest.mark.parametrize('adapter', [None, FROZEN], ids=['full', 'frozen'])
def test_equals_reference_without_adapters(family, tmp_path, adapter):
    assert_outputs(build(family, tmp_path, adapter), family[4], 'plain_output', family[2])


@pytest.mark.parametrize('with_cp', [False, True])
def test_equals_reference_with_adapters(family, tmp_path, with_cp):
    _, _, count, sites, golden = family
    adapter = dict(type='mmparax.AdaRoute', hidden_dim=golden['config.hidden_dim'], router_dim=golden['config.router_dim'],
                   kernel_sizes=golden['config.kernel_sizes'], sites=sites)
    model = build(family, tmp_path, adapter, with_cp=with_cp)
    for stage, blocks in enumerate(model.stage_blocks()):
        model.expert_centers[stage][0].load_state_dict(golden.group(f'adapter.stage{stage}.center.'))
        for index, block in enumerate(blocks):
            assert tuple(block.adapters) == sites
            for site in sites:
                block.adapters[site].load_state_dict(golden.group(f'adapter.stage{stage}.block{index}.{site}.'))
    assert_outputs(model, golden, 'output', count)
