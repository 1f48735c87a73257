"""Every shipped config builds and runs are checked; the recipes are in test_recipes.py."""
import ast
import re

import pytest
from mmengine.registry import METRICS, TRANSFORMS, DefaultScope, init_default_scope
from mmengine.registry import MODELS as ROOT_MODELS

from helpers.config_files import CONFIGS, LEAVES, build, load, optimizer_of
from mmparax.backbones.parameters import count_parameters
from mmparax.checks.components import check_components
from mmparax.checks.model import check_class_counts, check_features
from mmparax.config.query import find_datasets, get_metainfo
from mmparax.datasets.synthetic.scenes import CLASSES, PALETTE, STUFF_CLASSES, THING_CLASSES
from mmparax.datasets.synthetic.writers import CROP_CLASSES
from mmparax.utils.meta_device import use_meta_device


@pytest.fixture(autouse=True)
def scope_of_its_own():
    yield
    DefaultScope._instance_dict.clear()


EXAMPLES = [path for path in LEAVES if path.parts[0] in ('examples', 'quickstart', 'object_detection')]
MODEL_FILES = sorted(path.relative_to(CONFIGS) for path in CONFIGS.glob('_base_/models/*.py'))


def bases_of(path):
    """The shipped configs that a config names in ``_base_``, by their paths below ``configs``."""
    lines = ast.parse((CONFIGS / path).read_text()).body
    values = [
        ast.literal_eval(line.value) for line in lines
        if isinstance(line, ast.Assign) and getattr(line.targets[0], 'id', None) == '_base_'
    ]
    names = [name for value in values for name in ([value] if isinstance(value, str) else value)]
    files = [
        CONFIGS / name[len('mmparax::'):] if name.startswith('mmparax::') else (CONFIGS / path).parent / name for name in names
        if name.startswith('mmparax::') or '::' not in name
    ]
    return [file.resolve().relative_to(CONFIGS) for file in files]


def method_of(cfg):
    """The type of a config's method, None for full fine-tuning."""
    return cfg.model.backbone.adapter and cfg.model.backbone.adapter.type


@pytest.mark.parametrize('path', EXAMPLES, ids=str)
def test_examples_build(path):
    """Those of the paper's tables are built by test_recipes.py."""
    cfg = load(path)
    model = build(cfg)
    count = count_parameters(model)
    assert count.head.parameters > 0 and count.trainable > 0
    check_features(model)
    check_class_counts(model, cfg.train_dataloader.dataset.get('metainfo') or {}, 'train_dataloader.dataset')
    in_optimizer = {id(parameter) for group in optimizer_of(cfg, model).param_groups for parameter in group['params']}
    assert in_optimizer == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


@pytest.mark.parametrize('path', LEAVES, ids=str)
def test_pipelines_and_evaluators_build(path):
    cfg = load(path)
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for dataset in find_datasets(cfg[loader]):
            for transform in dataset['pipeline']:
                TRANSFORMS.build(transform)
    assert METRICS.get(f'{cfg.default_scope}.{cfg.test_evaluator.type}') is not None


@pytest.mark.parametrize('path', LEAVES, ids=str)
def test_every_run_is_checked_and_resumable(path):
    cfg = load(path)
    assert cfg.default_hooks.checkpoint.type == 'mmparax.CheckpointHook' and dict(type='mmparax.PEFTHook') in cfg.custom_hooks


@pytest.mark.parametrize('path', LEAVES, ids=str)
def test_leaves_are_short_and_start_with_their_command(path):
    lines = (CONFIGS / path).read_text().splitlines()
    assert len(lines) <= 15
    assert f'configs/{path}' in lines[0] and lines[0].startswith('# ')


@pytest.mark.parametrize('path', MODEL_FILES, ids=str)
def test_a_model_file_inherits_from_frameworks_alone_and_names_no_adapter(path):
    """A framework has no backbone: so no backbone's file inherits from another one's."""
    assert 'adapter' not in load(path).model.get('backbone', {})
    for base in bases_of(path):
        assert base.parent == path.parent and 'backbone' not in load(base).model


@pytest.mark.parametrize('path', [path for path in MODEL_FILES if path.stem.endswith(('swin-mini', 'convnext-mini', 'vit-mini'))],
                         ids=str)
def test_every_mini_model_builds(path):
    """Those without a config here, too: tools/reproduce.py takes them."""
    cfg = load(path)
    init_default_scope({'EncoderDecoder': 'mmseg', 'ImageClassifier': 'mmpretrain'}.get(cfg.model.type, 'mmdet'))
    check_features(build(cfg))


@pytest.mark.parametrize('path', LEAVES, ids=str)
def test_a_leaf_names_its_method_in_one_place(path):
    """In ``model.backbone.adapter``, which the leaf sets itself, or a leaf of the same method that it inherits from."""
    cfg = load(path)
    assert 'adapter' not in cfg and 'adapter' in cfg.model.backbone
    leaves = [base for base in bases_of(path) if base in LEAVES]
    assert all(method_of(load(leaf)) == method_of(cfg) for leaf in leaves)
    named_here = re.findall(r'adapter=(?:None|dict\(type=)', (CONFIGS / path).read_text())
    assert len(named_here) == (0 if leaves else 1)


@pytest.mark.parametrize('path', [path for path in LEAVES if path.parts[0] == 'object_detection'], ids=str)
def test_boxes_alone(path):
    cfg = load(path)
    model, mini = build(cfg), 'mini' in path.stem
    assert not model.with_mask and type(model).__name__ == ('RetinaNet' if 'retinanet' in path.stem else 'FasterRCNN')
    for loader in ('train_dataloader', 'val_dataloader'):
        datasets = list(find_datasets(cfg[loader]))
        assert len(datasets) == (2 if 'voc' in path.stem and 'train' in loader else 1)
        for dataset in datasets:
            assert not any(step.get('with_mask') for step in dataset['pipeline'])
            check_class_counts(model, get_metainfo(cfg, dataset), loader)
    metric = METRICS.get(f'mmdet.{cfg.test_evaluator.type}')
    prefix, _, name = (cfg.default_hooks.checkpoint.get('save_best') or 'coco/bbox_mAP').partition('/')
    assert prefix == metric.default_prefix and name in ('bbox_mAP', 'mAP')
    if 'voc' not in path.stem:
        assert cfg.test_evaluator.metric == ['bbox']
    # Those of the paper's dense tasks, but RetinaNet has no norm on the output of the first stage.
    dense, width = (133_236, 24) if mini else (5_242_992, 128)
    assert count_parameters(model).trainable_in_backbone == dense - (2 * width if 'retinanet' in path.stem else 0)


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


SCENES = {
    'scenes_seg_128x128': dict(classes=CLASSES, palette=PALETTE),
    'scenes_coco_instance_128x128': dict(classes=THING_CLASSES, palette=PALETTE[:10]),
    'scenes_coco_panoptic_128x128': dict(classes=CLASSES, thing_classes=THING_CLASSES, stuff_classes=STUFF_CLASSES,
                                         palette=PALETTE),
    'scenes_crops_32x32': dict(classes=CROP_CLASSES),
}


@pytest.mark.parametrize('name', SCENES)
def test_scenes_have_the_generator_s_names_and_colours(name):
    metainfo = load(f'_base_/datasets/{name}.py').train_dataloader.dataset.metainfo
    found = {key: tuple(map(tuple, value)) if key == 'palette' else tuple(value) for key, value in metainfo.items()}
    assert found == {key: tuple(value) for key, value in SCENES[name].items()}


def test_resolves_from_any_scope():
    for scope in ('mmseg', 'mmdet', 'mmpretrain', 'mmengine'):
        init_default_scope(scope)
        with use_meta_device():
            model = ROOT_MODELS.build(dict(type='mmparax.AdaptedSwin', adapter=dict(type='mmparax.AdaRoute')))
        assert count_parameters(model).adapters.parameters


def test_no_config_has_an_unknown_part():
    for path in LEAVES:
        assert check_components(load(path)) == [], path
