"""Every shipped config builds, and the recipes are those of the paper."""
from pathlib import Path

import pytest
import torch
from cases import on_meta
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import TRANSFORMS, DefaultScope, init_default_scope

from mmparax.analysis.parameters import count_parameters
from mmparax.datasets.scenes import CLASSES, PALETTE
from mmparax.hooks.checks import check_adapter_option
from mmparax.registry import MODELS

CONFIGS = Path(__file__).parents[2] / 'configs'
LEAVES = sorted(path.relative_to(CONFIGS) for path in CONFIGS.rglob('*.py') if '_base_' not in path.parts)


@pytest.fixture(autouse=True)
def scope_of_its_own():
    yield
    DefaultScope._instance_dict.clear()


def load(path):
    cfg = Config.fromfile(CONFIGS / path)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    return cfg


def build(cfg):
    with on_meta():
        return MODELS.build(cfg.model)


# Written from the paper and the method text, independently of the configs: (trained in the backbone, lr, drop path).
ADE20K = {
    'upernet_swin-b_adaroute': (5_242_992, 6e-5, 0.15), 'upernet_swin-l_adaroute': (7_302_384, 3e-4, 0.3),
    'upernet_swin-b_frozen': (None, 6e-5, 0.15), 'upernet_swin-l_frozen': (None, 3e-4, 0.3),
    'upernet_swin-b_full': (86_745_016, 6e-5, 0.15), 'upernet_swin-l_full': (None, 6e-5, 0.3),
}
WIDTHS = {'b': (128, 256, 512, 1024), 'l': (192, 384, 768, 1536)}


@pytest.mark.parametrize('path', LEAVES, ids=str)
def test_builds(path):
    cfg = load(path)
    model = build(cfg)
    count = count_parameters(model)
    assert count.head.parameters > 0 and count.head_frozen.parameters == 0
    optimizer = build_optim_wrapper(model, dict(type='OptimWrapper', optimizer=cfg.optim_wrapper.optimizer))
    assert isinstance(optimizer.optimizer, torch.optim.AdamW)
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for transform in cfg[loader].dataset.pipeline:
            TRANSFORMS.build(transform)


@pytest.mark.parametrize('path', LEAVES, ids=str)
def test_every_run_is_checked_and_resumable(path):
    cfg = load(path)
    assert cfg.default_hooks.checkpoint.type == 'mmparax.CheckpointHook' and dict(type='mmparax.PEFTHook') in cfg.custom_hooks
    check_adapter_option(cfg)


@pytest.mark.parametrize('path', LEAVES, ids=str)
def test_leaves_are_short_and_start_with_their_command(path):
    lines = (CONFIGS / path).read_text().splitlines()
    assert len(lines) <= 15
    assert f'configs/{path}' in lines[0] and lines[0].startswith('# ')


@pytest.mark.parametrize('name', ADE20K)
def test_ade20k_recipe(name):
    cfg = load(f'semantic_segmentation/{name}_4xb4-160k_ade20k-512x512.py')
    trained, lr, drop_path = ADE20K[name]
    size, method = name.split('-')[1].split('_')
    widths = WIDTHS[size]
    model, norms = build(cfg), 2 * sum(widths)
    count = count_parameters(model)
    assert count.trained_in_backbone == (norms if method == 'frozen' else trained or count.backbone)
    assert cfg.model.backbone.drop_path_rate == drop_path
    assert cfg.model.backbone.base_checkpoint.endswith(
        f'swin_{dict(b="base", l="large")[size]}_patch4_window7_224_22k.pth')
    assert cfg.optim_wrapper == dict(type='AmpOptimWrapper', loss_scale='dynamic',
                                     optimizer=dict(type='AdamW', lr=lr, betas=(0.9, 0.999), weight_decay=0.01))
    warmup, decay = cfg.param_scheduler
    assert (warmup.type, warmup.start_factor, warmup.begin, warmup.end, warmup.by_epoch) == ('LinearLR', 1e-6, 0, 1500, False)
    assert (decay.type, decay.power, decay.eta_min, decay.begin, decay.end) == ('PolyLR', 1.0, 0.0, 1500, 160000)
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (160000, 8000)
    assert cfg.train_dataloader.batch_size == 4 and cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.default_hooks.checkpoint.save_best == 'mIoU'
    pipeline = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert pipeline['RandomCrop'].crop_size == (512, 512) and pipeline['RandomCrop'].cat_max_ratio == 0.75
    assert pipeline['RandomResize'].scale == (2048, 512) and pipeline['RandomResize'].ratio_range == (0.5, 2.0)
    assert {'RandomFlip', 'PhotoMetricDistortion'} < set(pipeline)
    test = {step.type: step for step in cfg.test_dataloader.dataset.pipeline}
    assert test['Resize'].scale == (2048, 512) and test['Resize'].keep_ratio
    assert test['ResizeToMultiple'].size_divisor == 32
    assert cfg.model.test_cfg.mode == 'whole'
    assert model.decode_head.in_channels == list(widths) and model.auxiliary_head.in_channels == widths[2]
    assert cfg.model.auxiliary_head.in_index == 2 and cfg.model.auxiliary_head.loss_decode.loss_weight == 0.4
    assert cfg.model.decode_head.norm_cfg.type == 'SyncBN' and model.decode_head.num_classes == 150


def test_the_8_gb_example_is_the_same_recipe_in_smaller_portions():
    whole = load('semantic_segmentation/upernet_swin-b_adaroute_4xb4-160k_ade20k-512x512.py')
    small = load('examples/upernet_swin-b_adaroute_1xb2-160k_ade20k-512x512_8gb.py')
    accumulated = small.optim_wrapper.pop('accumulative_counts')
    assert accumulated * small.train_dataloader.batch_size == whole.auto_scale_lr.base_batch_size == 16
    assert small.optim_wrapper.pop('dtype') == 'bfloat16' and small.optim_wrapper.pop('loss_scale') == dict(enabled=False)
    assert whole.optim_wrapper.pop('loss_scale') == 'dynamic' and small.optim_wrapper == whole.optim_wrapper
    for name in ('max_iters', 'val_interval'):
        assert small.train_cfg[name] == accumulated * whole.train_cfg[name]
    for ours, theirs in zip(small.param_scheduler, whole.param_scheduler):
        assert [ours.begin, ours.end] == [accumulated * theirs.begin, accumulated * theirs.end]
    assert small.default_hooks.checkpoint.interval == accumulated * whole.default_hooks.checkpoint.interval
    assert small.model.backbone.pop('with_cp') and small.model == whole.model
    assert small.train_dataloader.pop('batch_size') and whole.train_dataloader.pop('batch_size')
    assert small.train_dataloader == whole.train_dataloader
    assert build(load('examples/upernet_swin-b_adaroute_1xb2-160k_ade20k-512x512_8gb.py')).backbone.stages[2].blocks[17].with_cp


@pytest.mark.parametrize('options, hidden_dim', [({}, 128), ({'model.backbone.adapter.hidden_dim': 64}, 64)], ids=str)
def test_command_line_options_reach_the_adapter(options, hidden_dim):
    cfg = load('semantic_segmentation/upernet_swin-b_adaroute_4xb4-160k_ade20k-512x512.py')
    cfg.merge_from_dict(options)
    assert build(cfg).backbone.expert_centers[0][0].down.shape[1] == hidden_dim


def test_a_stale_option_says_delete():
    cfg = load('semantic_segmentation/upernet_swin-b_adaroute_4xb4-160k_ade20k-512x512.py')
    cfg.merge_from_dict({'model.backbone.adapter.hidden_dim': 64, 'model.backbone.adapter.type': 'mmparax.Frozen'})
    with pytest.raises(ValueError, match="Frozen has no option 'hidden_dim'.*_delete_=True"):
        build(cfg)


def test_scenes_have_the_generator_s_names_and_colours():
    metainfo = load('_base_/datasets/scenes_seg_128x128.py').train_dataloader.dataset.metainfo
    assert metainfo.classes == CLASSES and tuple(map(tuple, metainfo.palette)) == PALETTE


def test_resolves_from_any_scope():
    for scope in ('mmseg', 'mmdet', 'mmpretrain', 'mmengine'):
        init_default_scope(scope)
        with on_meta():
            model = ROOT_MODELS.build(dict(type='mmparax.AdaptedSwin', adapter=dict(type='mmparax.AdaRoute')))
        assert count_parameters(model).adapters.parameters
