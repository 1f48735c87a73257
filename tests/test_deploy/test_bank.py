"""Segmentation and detection from one base in one process."""
import threading
from collections import OrderedDict

import mmdet.apis
import mmseg.apis
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.models.backbones import VisionTransformer
from mmseg.structures import SegDataSample

import mmparax
from helpers.cases import TINY_VIT, build
from helpers.deployed import write_base, write_task
from mmparax.backbones import AdaptedViT
from mmparax.backbones.base_weights import BaseSource
from mmparax.inference.predictions import load_model

TASKS = {'segmentation': 'adaroute', 'detection': 'lora', 'panoptic': 'bitfit'}


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Task -> (config, adapter file), all on one base."""
    folder = tmp_path_factory.mktemp('bank')
    write_base(folder)
    return {task: write_task(folder, task, method) for task, method in TASKS.items()}


@pytest.fixture(scope='module')
def alone(files):
    """Task -> its model in a process without a bank."""
    models = {}
    for task, (config, adapter) in files.items():
        cfg = Config.fromfile(config)
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            models[task] = load_model(cfg, adapter)
    return models


@pytest.fixture
def bank(files):
    bank = mmparax.AdapterBank()
    for task in files:
        bank.add(task, *files[task])
    return bank


@torch.no_grad()
def predict(model, seed=0):
    """Return all tensors of a model's prediction for an image, in order."""
    image = torch.randint(256, (3, 64, 96), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    sample = (SegDataSample if hasattr(model, 'decode_head') else DetDataSample)(
        metainfo=dict(img_shape=(64, 96), ori_shape=(64, 96), pad_shape=(64, 96), scale_factor=(1., 1.), padding_size=(0, 0, 0,
                                                                                                                       0)))
    found, = model.test_step(dict(inputs=[image], data_samples=[sample]))
    parts = [value for name, value in found.all_items() if name not in found.metainfo_keys()]
    return [value for part in parts for _, value in part.items() if isinstance(value, torch.Tensor)]


def find_storages(model, *roles):
    """Find the addresses of the backbone's parameters of some roles."""
    of = model.backbone.parameter_roles()
    return {name: value.data_ptr() for name, value in model.backbone.named_parameters() if of[name] in roles}


def count_bytes(tensors):
    return sum(tensor.nbytes for tensor in tensors)


def test_every_task_says_what_it_says_alone(bank, alone):
    before = DefaultScope.get_current_instance()
    for _ in range(2):  # back and forth
        for task, model in alone.items():
            found, expected = predict(bank.use(task)), predict(model)
            assert len(found) == len(expected) and sum(value.numel() for value in found) > 0
            assert all(torch.equal(a, b) for a, b in zip(found, expected)), task
            assert bank.use(task).cfg.model.type == type(model).__name__
            assert bank.use(task).dataset_meta['classes'] == ('a', 'b')
    assert bank.names() == list(TASKS)
    assert DefaultScope.get_current_instance() is before


def test_the_toolboxes_functions_need_no_scope(files, monkeypatch):
    monkeypatch.setattr(DefaultScope, '_instance_dict', OrderedDict())  # as in a fresh process
    bank, image = mmparax.AdapterBank(), np.zeros((64, 96, 3), np.uint8)
    start = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(96, 64))]
    flips = [dict(type='RandomFlip', prob=0.), dict(type='RandomFlip', prob=1.)]
    pipelines = dict(segmentation=[*start, dict(type='TestTimeAug', transforms=[flips, [dict(type='PackSegInputs')]])],
                     detection=[*start, dict(type='PackDetInputs')])
    configs = {task: Config.fromfile(files[task][0]) for task in pipelines}
    for task, pipeline in pipelines.items():
        cfg = configs[task]
        cfg.merge_from_dict(
            dict(
                test_pipeline=pipeline,
                test_dataloader=dict(dataset=dict(type='ConcatDataset', datasets=[dict(type='BaseDataset', pipeline=pipeline)]))))
        bank.add(task, cfg, files[task][1])
    assert '_scope_' not in str(configs)
    assert isinstance(mmdet.apis.inference_detector(bank.use('detection'), image), DetDataSample)
    packed = mmseg.apis.utils._preprare_data(image, bank.use('segmentation'))[0]
    assert [type(sample) for samples in packed['data_samples'] for sample in samples] == [SegDataSample] * 2
    bank.use('segmentation').cfg.test_pipeline[-1] = dict(type='PackSegInputs', _scope_='mmseg')
    assert isinstance(mmseg.apis.inference_model(bank.use('segmentation'), image), SegDataSample)


def test_the_base_is_there_once(bank, alone):
    first, second, tuned = (bank.use(task) for task in TASKS)
    assert find_storages(first, 'base') == find_storages(second, 'base')
    common = find_storages(tuned, 'base')  # BitFit's biases are its own
    assert common.items() < find_storages(first, 'base').items()
    assert not set(find_storages(tuned, 'tuned').values()) & set(find_storages(first, 'base').values())
    counted = bank.memory()
    roles = first.backbone.parameter_roles()
    assert counted['base'] == count_bytes(value for name, value in first.backbone.named_parameters() if roles[name] == 'base')
    for task, model in alone.items():
        roles = {f'backbone.{name}': role for name, role in model.backbone.parameter_roles().items()}
        own = [value for name, value in model.named_parameters() if roles.get(name) != 'base']
        assert counted['tasks'][task] == count_bytes([*own, *model.buffers()])
    addresses = {
        value.data_ptr(): value.nbytes for task in TASKS for value in [*bank.use(task).parameters(), *bank.use(task).buffers()]
    }
    assert sum(addresses.values()) == counted['base'] + sum(counted['tasks'].values())


def test_a_task_that_is_removed_takes_along_what_only_it_needed(bank):
    before = bank.memory()
    bank.remove('segmentation')
    with pytest.raises(ValueError, match="name='segmentation' is not allowed: the bank has the tasks 'detection', 'panoptic'"):
        bank.use('segmentation')
    assert bank.memory()['base'] == before['base']
    bank.remove('detection')
    assert bank.memory()['base'] < before['base']  # the biases that BitFit does not share
    predict(bank.use('panoptic'))
    bank.remove('panoptic')
    assert bank.memory() == dict(base=0, tasks={})
    bank.adopt('another family', build('lora', 'vit'))


def test_a_model_that_left_has_a_base_of_its_own(bank):
    model, other = bank.use('detection'), bank.use('segmentation')
    before, expected = predict(other), predict(model)
    for task in ('detection', 'panoptic'):
        bank.remove(task)
    assert not set(find_storages(model, 'base').values()) & set(find_storages(other, 'base').values())
    assert all(torch.equal(a, b) for a, b in zip(predict(model), expected))
    assert mmparax.merge_adapter(model) > 0
    assert all(torch.equal(a, b) for a, b in zip(predict(bank.use('segmentation')), before))
    mmparax.unmerge_adapter(model)
    bank.adopt('again', model)
    assert find_storages(model, 'base') == find_storages(other, 'base')
    assert not any(value.requires_grad
                   for name, value in model.backbone.named_parameters() if model.backbone.parameter_roles()[name] == 'base')


def test_tasks_run_at_the_same_time(bank, alone):
    found = {}

    def run(task):
        found[task] = [predict(bank.use(task), seed) for seed in range(4)]

    threads = [threading.Thread(target=run, args=(task, )) for task in TASKS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for task, model in alone.items():
        for seed in range(4):
            assert all(torch.equal(a, b) for a, b in zip(found[task][seed], predict(model, seed)))


def check_refused(bank, match, model, name='new', error=ValueError):
    before, names, mode = bank.memory(), bank.names(), model.training
    with pytest.raises(error, match=match):
        bank.adopt(name, model)
    assert bank.memory() == before and bank.names() == names
    assert not getattr(model, 'shared', False) and model.training == mode


def test_what_does_not_belong_is_refused(bank, tmp_path):
    write_base(tmp_path, seed=2)
    with pytest.raises(ValueError, match="the model of 'other' has another base than the other tasks .*: 45 .*of 78 frozen"):
        bank.add('other', *write_task(tmp_path, 'segmentation', 'frozen'))
    check_refused(bank, 'another base', build('lora', 'swin'))
    check_refused(bank, "has a ViT, and the base of this AdapterBank is a Swin", build('lora', 'vit'))
    check_refused(bank, 'no frozen base that an AdapterBank could share', build(None))
    check_refused(bank, 'random base', build('lora', allow_random_base=False), error=RuntimeError)
    check_refused(bank, 'takes models with one backbone of mmparax, and Linear has 0', torch.nn.Linear(2, 2))
    check_refused(bank, 'the bank has a task of that name', build('lora'), 'detection')
    with pytest.raises(ValueError, match='shares the base of an AdapterBank already: remove its task there first'):
        mmparax.AdapterBank().adopt('taken', bank.use('detection'))


def test_a_model_of_a_bank_leaves_the_base_alone(bank):
    model = bank.use('detection')
    before = {name: value.clone() for name, value in model.backbone.named_parameters()}
    with pytest.raises(ValueError, match='shares its base with other models of an AdapterBank'):
        mmparax.merge_adapter(model)
    with pytest.raises(ValueError, match='that of other models of an AdapterBank, too'):
        model.backbone.load_base()
    with pytest.raises(ValueError, match='cannot be initialised: its base is that of other models of an AdapterBank, too'):
        model.init_weights()
    other = {name: value + 1 for name, value in model.state_dict().items()}
    model.backbone.base_source = BaseSource.CHECKPOINT  # where it came from makes no difference
    with pytest.raises(ValueError, match='another base'):
        model.load_state_dict(other)
    model.load_state_dict(
        {name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()})
    roles = model.backbone.parameter_roles()
    assert all(torch.equal(value, before[name]) for name, value in model.backbone.named_parameters() if roles[name] == 'base')


def test_a_moved_base_is_noticed(bank):
    bank.device = torch.device('meta')  # where the bank is, the base is not
    with pytest.raises(ValueError, match="the model of 'detection' no longer runs on the shared base: it was moved"):
        bank.use('detection')


def test_a_converted_model_is_noticed(bank):
    bank.use('segmentation').half()
    for task in ('segmentation', 'detection'):
        with pytest.raises(ValueError, match=f"the model of '{task}' no longer runs on the shared base"):
            bank.use(task)


def test_a_base_is_compared_byte_by_byte(bank, files):
    """-0.0 equals 0.0 as a number, and is another value of the base."""
    first = bank.use('segmentation')
    name, parameter = next(
        (name, parameter) for name, parameter in first.backbone.named_parameters() if not parameter.requires_grad)
    with torch.no_grad():
        parameter.flatten()[0] = 0.
    cfg = Config.fromfile(files['segmentation'][0])
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = load_model(cfg, files['segmentation'][1])
    with torch.no_grad():
        model.backbone.get_parameter(name).flatten()[0] = -0.
    with pytest.raises(ValueError, match='has another base than the other tasks of this AdapterBank: 1 '):
        bank.adopt('again', model)
    with torch.no_grad():
        model.backbone.get_parameter(name).flatten()[0] = 0.
    assert bank.adopt('again', model) is model


def test_tasks_with_images_of_other_sizes_share_all_but_what_was_interpolated(tmp_path):
    """One ViT, two position tables: it is one base, and each task keeps its own table."""
    source = VisionTransformer(**TINY_VIT)
    torch.nn.init.normal_(source.pos_embed)
    torch.save(source.state_dict(), tmp_path / 'base.pth')

    def make(name='base', **options):
        backbone = AdaptedViT(adapter=dict(type='mmparax.Frozen'), base_checkpoint=str(tmp_path / f'{name}.pth'),
                              **{**TINY_VIT, **options})
        return torch.nn.ModuleDict(dict(backbone=backbone))

    bank, image = mmparax.AdapterBank(), torch.randn(1, 3, 48, 48)
    expected = {size: make(img_size=size)['backbone'].eval()(image) for size in (48, 64, 80)}
    for size in expected:
        bank.adopt(str(size), make(img_size=size))
    for size, outputs in expected.items():
        model = bank.use(str(size))['backbone']
        assert all(torch.equal(a, b) for a, b in zip(model(image), outputs))
        assert model.layers[0].attn.qkv.weight is bank.use('48')['backbone'].layers[0].attn.qkv.weight
    assert bank.memory()['tasks']['64'] == bank.use('64')['backbone'].pos_embed.nbytes
    torch.nn.init.normal_(source.pos_embed)
    torch.save(source.state_dict(), tmp_path / 'other.pth')
    for size in (48, 64):
        with pytest.raises(ValueError, match=r'has another base than the other tasks .* 1 \(pos_embed\) of'):
            bank.adopt('other', make('other', img_size=size))
