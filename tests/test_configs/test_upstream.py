"""The toolboxes' own configs become AdaRoute by inheritance, in a few lines, and the doctor examines them on random images."""
import pytest
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import DefaultScope

from mmparax.config import inheritance
from mmparax.config.files import load_config
from mmparax.doctor import Doctor

SWIN = """
_delete_=True, type='mmparax.AdaptedSwin', arch='tiny', out_indices={outputs}, drop_path_rate=0.2,
base_checkpoint='swin_tiny.pth', adapter=dict(type='mmparax.AdaRoute')
"""
KEPT = """
type='mmparax.{family}', base_checkpoint='base.pth', adapter=dict(type='mmparax.AdaRoute')
"""
TEXT = """
_base_ = '{base}'
model = dict({more}backbone=dict({backbone}))
optim_wrapper = dict(constructor='mmparax.OptimWrapperConstructor'{rates})
default_hooks = dict(checkpoint=dict(type='mmparax.CheckpointHook'))
custom_hooks = [dict(type='mmparax.PEFTHook')]
"""


def write(base, backbone, more='', rates=''):
    return TEXT.format(base=base, backbone=backbone.strip(), more=more, rates=rates).strip()


def swin(base, outputs=(0, 1, 2, 3), more='', rates=''):
    return write(base, SWIN.format(outputs=outputs), more, rates)


FOUR, THREE = 'neck=dict(in_channels=[96, 192, 384, 768]), ', 'neck=dict(in_channels=[192, 384, 768], start_level=0), '
# What the doctor says of multipliers that are meant for a backbone that is trained (docs/learning_rates.md).
FULL_RATE = ", paramwise_cfg=dict(custom_keys={'adapters': dict(lr_mult=1.0), 'expert_centers': dict(lr_mult=1.0)})"
# Name -> config as a user writes it.
CONFIGS = {
    'mmseg-upernet-swin': swin('mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py'),
    'mmseg-segformer': write('mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
                             KEPT.format(family='AdaptedMiT').strip() + ', init_cfg=None'),
    'mmseg-upernet-convnext': write('mmseg::convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py',
                                    KEPT.format(family='AdaptedConvNeXt').strip() + ', init_cfg=None',
                                    rates=', paramwise_cfg=dict(_delete_=True)'),
    'mmdet-mask-rcnn': swin('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', more=FOUR),
    'mmdet-retinanet': swin('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', (1, 2, 3), THREE),
    'mmdet-mask2former': swin('mmdet::mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco.py', rates=FULL_RATE),
    'mmdet-mask2former-panoptic': swin('mmdet::mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco-panoptic.py',
                                       rates=FULL_RATE),
    'mmdet-dino': swin('mmdet::dino/dino-5scale_swin-l_8xb2-12e_coco.py', more=FOUR, rates=FULL_RATE),
    'mmpretrain-swin': write('mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py', KEPT.format(family='AdaptedSwin')),
    'mmpretrain-convnext': write('mmpretrain::convnext/convnext-tiny_32xb128_in1k.py', KEPT.format(family='AdaptedConvNeXt')),
    'mmpretrain-vit': write('mmpretrain::vision_transformer/vit-base-p16_32xb128-mae_in1k.py', KEPT.format(family='AdaptedViT')),
}
SLOW = ('mmseg-upernet-convnext', 'mmdet-mask-rcnn', 'mmdet-mask2former-panoptic', 'mmdet-dino', 'mmpretrain-convnext')

# Only to be fast: one block a stage, narrow heads, small images.
SMALL_ARCHS = {
    'AdaptedSwin': dict(arch=dict(_delete_=True, embed_dims=96, depths=[1] * 4, num_heads=[3, 6, 12, 24])),
    'AdaptedConvNeXt': dict(arch=dict(_delete_=True, channels=[96, 192, 384, 768], depths=[1] * 4)),
    'AdaptedMiT': dict(num_layers=[1] * 4),
    'AdaptedViT': dict(img_size=32, arch=dict(_delete_=True, embed_dims=768, num_layers=2, num_heads=12,
                                              feedforward_channels=768)),
}
SMALL = {
    'mmseg': {
        'model.data_preprocessor.size': (64, 64), 'train_dataloader.dataset.pipeline.3.crop_size': (64, 64),
        'model.decode_head.channels': 32
    },
    'retinanet': {'model.bbox_head.stacked_convs': 1, 'model.bbox_head.feat_channels': 32},
    'mask-rcnn': {'model.train_cfg.rpn_proposal.max_per_img': 50, 'model.train_cfg.rcnn.sampler.num': 32},
    'mask2former': {
        'model.data_preprocessor.batch_augments': None, 'model.panoptic_head.transformer_decoder.num_layers': 1,
        'model.panoptic_head.pixel_decoder.encoder.num_layers': 1, 'model.train_cfg.num_points': 256
    },
    'dino': {'model.encoder.num_layers': 1, 'model.decoder.num_layers': 2, 'model.num_queries': 20},
}


@pytest.fixture(autouse=True)
def scope_of_its_own():
    yield
    DefaultScope._instance_dict.clear()


def read(name, tmp_path, changes=()):
    path = tmp_path / 'mine.py'
    path.write_text(CONFIGS[name])
    return load_config(str(path), dict(changes))


def shrink(name, tmp_path):
    """The small one of a config, with a random base: its file is not here."""
    family = read(name, tmp_path).model.backbone.type.removeprefix('mmparax.')
    changes = {f'model.backbone.{option}': value for option, value in SMALL_ARCHS[family].items()}
    for part, more in SMALL.items():
        changes.update(more if part in name else {})
    return read(name, tmp_path, {**changes, 'model.backbone.base_checkpoint': None, 'model.backbone.allow_random_base': True})


@pytest.mark.parametrize('name', [pytest.param(name, marks=pytest.mark.full if name in SLOW else ()) for name in CONFIGS])
def test_becomes_adaroute_by_inheritance(name, tmp_path):
    assert len(CONFIGS[name].splitlines()) <= 12
    findings = {finding.check: finding for finding in Doctor(shrink(name, tmp_path)).examine()}
    problems = {check: finding.text for check, finding in findings.items() if finding.status == 'problem'}
    assert list(problems) == ['data'], problems  # ADE20K, COCO and ImageNet are not here
    for check in ('config', 'checkpoints', 'model', 'features', 'classes', 'frozen', 'one step'):
        assert findings[check].status == 'ok', findings[check]
    assert ' with AdaRoute: ' in findings['model'].text and 'on 2 random images' in findings['one step'].text


def test_a_pyramid_that_leaves_a_map_out_names_the_three_options(tmp_path):
    """mmdetection's RetinaNet takes four maps of its ResNet and drops the first."""
    text = swin('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', more=FOUR)
    (tmp_path / 'mine.py').write_text(text)
    cfg = load_config(str(tmp_path / 'mine.py'),
                      {'model.backbone.base_checkpoint': None, 'model.backbone.arch': SMALL_ARCHS['AdaptedSwin']['arch']})
    found = {finding.check: finding for finding in Doctor(cfg).examine()}['features']
    assert found.status == 'problem' and found.text.startswith('model.neck.start_level=1 is not allowed')
    assert found.text.endswith('Use model.backbone.out_indices=(1, 2, 3), model.neck.in_channels=[192, 384, 768] and '
                               'model.neck.start_level=0.')


# ---- where `mmseg::` leads ----

OWN = [
    'swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py',
    'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py', 'mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py'
]


@pytest.mark.parametrize('name', OWN)
def test_mmsegmentation_s_own_configs_are_bases(name, tmp_path):
    (tmp_path / 'mine.py').write_text(f"_base_ = 'mmseg::{name}'\nwork_dir = 'mine'\n")
    cfg = Config.fromfile(tmp_path / 'mine.py')
    assert cfg.model.type == 'EncoderDecoder' and cfg.model._scope_ == cfg.default_scope == 'mmseg' and cfg.work_dir == 'mine'


@pytest.mark.parametrize('installed, expected', [({'mmseg'}, 'mmseg'), ({'mmseg', 'mmsegmentation'}, 'mmsegmentation'),
                                                 (set(), 'mmsegmentation')], ids=['OneDL', 'OpenMMLab', 'neither'])
def test_only_onedl_s_distribution_needs_another_name(installed, expected, monkeypatch):
    before = dict(MODULE2PACKAGE)
    monkeypatch.setitem(MODULE2PACKAGE, 'mmseg', 'mmsegmentation')
    monkeypatch.setattr('mmengine.utils.is_installed', lambda name: name in installed or not name.startswith('mmseg'))
    inheritance.name_installed_toolboxes()
    assert {**before, 'mmseg': expected} == MODULE2PACKAGE
