"""save_adapter and load_adapter: what is in a file, what comes back, and which files are refused."""
import hashlib
import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint
from safetensors import safe_open
from torch import nn

import mmparax
from helpers.cases import METHODS, build
from helpers.config_files import load as load_config
from helpers.runs import SHALLOW, config, train
from helpers.runs import build as build_run
from mmparax.backbones import AdaptedConvNeXt
from mmparax.backbones.base_weights import BaseSource
from mmparax.checkpoint.compatibility import check_backbone
from mmparax.checkpoint.fingerprint import to_plain_config
from mmparax.config.query import get_model_config
from mmparax.utils.meta_device import use_meta_device
from mmparax.weights.adapter_file import BLANK, KEY, read_adapter, to_plain_json
from mmparax.weights.digest import compute_digest

ARCH = SHALLOW['swin']['arch']
META = dict(classes=('a', 'b', 'c'), palette=[[0, 1, 2], [3, 4, 5], [6, 7, 8]])


class Model(nn.Module):

    def __init__(self, folder, method='adaroute', classes=3, **options):
        super().__init__()
        base = {} if folder is None else dict(allow_random_base=False, base_checkpoint=str(folder / 'base.pth'))
        self.backbone = build(method, **{'arch': ARCH, **base, **options})
        self.head = nn.Sequential(nn.Conv2d(64, classes, 1), nn.BatchNorm2d(classes))
        with torch.no_grad():
            for part in [*self.backbone.parameters(), *self.head.parameters(), self.head[1].running_mean]:
                if part.requires_grad or part is self.head[1].running_mean:
                    part.add_(torch.randn_like(part))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('adapters')
    torch.save(build('frozen', arch=ARCH).state_dict(), path / 'base.pth')
    torch.save(build('frozen', arch=ARCH).state_dict(), path / 'other.pth')
    return path


def values(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_what_was_saved_comes_back(folder, tmp_path):
    source, model = Model(folder), Model(folder)
    about = mmparax.save_adapter(source, tmp_path / 'a.safetensors', metric=dict(mIoU=50.3), dataset_meta=META)
    loaded = mmparax.load_adapter(model, tmp_path / 'a.safetensors')
    assert equal(values(source), values(model))
    assert model.dataset_meta == dict(classes=('a', 'b', 'c'), palette=((0, 1, 2), (3, 4, 5), (6, 7, 8)))
    frozen = {f'backbone.{name}' for name in source.backbone.frozen_names()}
    assert set(loaded['loaded']) == set(values(source)) - frozen
    assert {**about, 'loaded': loaded['loaded']} == loaded and about['metric'] == dict(mIoU=50.3)


def test_the_description(folder, tmp_path):
    cfg = Config(dict(model=dict(type='Model', backbone=dict(type='x'), head=dict(type='Head', ratio=(1, float('inf'))))))
    mmparax.save_adapter(Model(folder), tmp_path / 'a.safetensors', cfg=cfg)
    about = read_adapter(tmp_path / 'a.safetensors').about
    backbone = about['backbones']['backbone']
    assert about['format_version'] == 2 and about['version'] == mmparax.__version__ and about['model'] == 'Model'
    assert about['fingerprint'] == mmparax.fingerprint(Model(folder)) and about['metric'] is about['dataset_meta'] is None
    assert [backbone[key] for key in ('type', 'family', 'base_checkpoint')] == ['AdaptedSwin', 'Swin', 'base.pth']
    assert backbone['adapter'] == to_plain_json(build('adaroute').method.config) and backbone['adapter']['hidden_dim'] == 8
    assert backbone['options']['arch'] == ARCH and backbone['options']['pad_small_map'] is True
    assert about['head'] == dict(type='Model', head=dict(type='Head', ratio=[1, 'inf']))


def test_it_can_be_read_with_safetensors_alone(folder, tmp_path):
    """As docs/adapter_files.md says."""
    model = Model(folder)
    mmparax.save_adapter(model, tmp_path / 'a.safetensors', dataset_meta=dict(classes=('ä', )))
    with safe_open(tmp_path / 'a.safetensors', 'pt') as file:
        assert list(file.metadata()) == ['mmparax_adapter']
        text = file.metadata()[KEY]
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    about = json.loads(text)
    assert text.startswith(f'{{"sha256":"{about["sha256"]}"')
    assert hashlib.sha256(text.replace(about['sha256'], BLANK, 1).encode()).hexdigest() == about['sha256']
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(f'{name} {tuple(tensors[name].shape)} {tensors[name].dtype}\n'.encode())
        total.update(tensors[name].numpy().tobytes())
    assert about['tensors'] == dict(number=len(tensors), bytes=sum(t.nbytes for t in tensors.values()), sha256=total.hexdigest())
    assert compute_digest(tensors.items()) == total.hexdigest()
    [prefix], state = about['backbones'], model.state_dict()
    for name, value in tensors.items():  # all that is not of the frozen base, by the names of the state dict
        assert torch.equal(value, state[prefix + name if name.startswith('.') else name])


def test_the_same_model_gives_the_same_file(folder, tmp_path):
    model = Model(folder)
    for name in ('a', 'b'):
        mmparax.save_adapter(model, tmp_path / f'{name}.safetensors', dataset_meta=META, metric=dict(b=1, a=2))
    assert (tmp_path / 'a.safetensors').read_bytes() == (tmp_path / 'b.safetensors').read_bytes()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ['a.safetensors', 'b.safetensors']


def test_without_a_head(folder, tmp_path):
    source, model = Model(folder), Model(folder, classes=5)
    head = values(model.head)
    path = tmp_path / 'a.safetensors'
    about = mmparax.save_adapter(source, path, include_head=False, dataset_meta=META)
    assert not about['head_included'] and about['dataset_meta'] is None
    loaded = mmparax.load_adapter(model, path)['loaded']
    assert equal(values(source.backbone), values(model.backbone)) and equal(head, values(model.head))
    assert all(name.startswith('backbone.') for name in loaded) and not hasattr(model, 'dataset_meta')
    with pytest.raises(ValueError, match="include_head=True, but '.*a.safetensors' was saved without a head"):
        mmparax.load_adapter(model, path, include_head=True)
    with pytest.raises(ValueError, match='was saved without a head, and that of Model would be random'):
        load_checkpoint(model, str(path))


def test_between_whole_models_and_backbones(folder, tmp_path):
    source, path = Model(folder), tmp_path / 'a.safetensors'
    mmparax.save_adapter(source, path)
    alone = Model(folder).backbone
    with pytest.raises(ValueError, match='was saved with a head, and AdaptedSwin is a backbone alone. Load it with'):
        mmparax.load_adapter(alone, path)
    mmparax.load_adapter(alone, path, include_head=False)
    assert equal(values(source.backbone), values(alone))
    mmparax.save_adapter(alone, tmp_path / 'alone.safetensors')
    model = Model(folder)
    mmparax.load_adapter(model, tmp_path / 'alone.safetensors')
    assert equal(values(source.backbone), values(model.backbone))


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_half_precision_loads_into_single(dtype, folder, tmp_path):
    source, model = Model(folder), Model(folder)
    half = mmparax.save_adapter(source, tmp_path / 'half.safetensors', dtype=dtype)
    whole = mmparax.save_adapter(source, tmp_path / 'whole.safetensors')
    assert half['tensors']['bytes'] == pytest.approx(whole['tensors']['bytes'] / 2, rel=1e-3) and half['dtype'] == dtype
    loaded = mmparax.load_adapter(model, tmp_path / 'half.safetensors')['loaded']
    expected, found = values(source), values(model)
    for name, value in ((name, found[name]) for name in loaded):
        assert value.dtype == expected[name].dtype
        rounded = expected[name].to(getattr(torch, dtype)) if value.is_floating_point() else expected[name]
        assert torch.equal(value, rounded.to(value.dtype))
    assert mmparax.fingerprint(model) == mmparax.fingerprint(source)


def test_what_has_no_room_in_half_precision_is_named(folder, tmp_path):
    model = Model(folder)
    model.head[1].running_var.fill_(1e5)
    with pytest.raises(ValueError, match=r"dtype='float16' has no room for the values of head.1.running_var \(up to 1e\+05\)"):
        mmparax.save_adapter(model, tmp_path / 'a.safetensors', dtype='float16')
    assert not list(tmp_path.iterdir())
    mmparax.save_adapter(model, tmp_path / 'a.safetensors', dtype='bfloat16')


def test_a_base_that_was_not_there_yet_is_loaded(folder, tmp_path):
    source = Model(folder)
    mmparax.save_adapter(source, tmp_path / 'a.safetensors')
    for act in (mmparax.load_adapter, load_checkpoint):
        model = Model(None, allow_random_base=False, base_checkpoint=str(tmp_path / 'base.pth'))
        assert model.backbone.base_source is None
        (tmp_path / 'base.pth').write_bytes((folder / 'base.pth').read_bytes())
        act(model, str(tmp_path / 'a.safetensors'))
        assert equal(values(source), values(model))
        (tmp_path / 'base.pth').unlink()


MISFITS = {
    'another base': (lambda f: Model(None, allow_random_base=False, base_checkpoint=str(f / 'other.pth')),
                     r"trained on another base: its fingerprint is .{12}… \('base.pth'\), that of the loaded base"),
    'random base': (lambda f: Model(None), r"was trained on 'base.pth', and the base of Model is random"),
    'no base': (lambda f: Model(None, allow_random_base=False), r"has no base_checkpoint: its base would be random.*'base.pth'"),
    'absent base': (lambda f: Model(None, allow_random_base=False, base_checkpoint='absent.pth'), "='absent.pth' does not exist"),
    'another method': (lambda f: Model(f, 'lora'), 'trained with the adapter AdaRoute, but backbone has LoRA'),
    'full fine-tuning': (lambda f: Model(f, None), r'trained with the adapter AdaRoute, but backbone has None'),
    'other options': (lambda f: Model(f, 'adaroute-sigmoid'),
                      "other options of AdaRoute: router_activation='softmax' instead of 'sigmoid'"),
    'another width': (lambda f: Model(f, dict(type='mmparax.AdaRoute', hidden_dim=4, router_dim=6)), 'hidden_dim=8 instead of 4'),
    'other base options': (lambda f: Model(f, pad_small_map=False), 'other options of AdaptedSwin: pad_small_map=True instead'),
    'other outputs': (lambda f: Model(f, out_indices=(3, )), r'out_indices=\[0, 1, 2, 3\] instead of \[3\]'),
    'another family': (lambda f: nn.ModuleDict(dict(backbone=build('adaroute', 'convnext'))), 'to a Swin, but backbone is a C'),
    'other classes': (lambda f: Model(f, classes=5), r'fit Model: of \d+ tensors 6 \(head.0.weight \(3, .*of another shape'),
    'a larger head': (lambda f: nn.Sequential(), r'backbones of mmparax are \[.backbone.\], and those of Sequential are \[\]'),
}


def with_more(folder):
    model = Model(folder)
    model.neck = nn.Linear(1, 1)
    return model


def with_less(folder):
    model = Model(folder)
    del model.head[1]
    return model


MISFITS['a head with more'] = (with_more, r'2 \(neck.weight, neck.bias\) missing')
MISFITS['a head with less'] = (with_less, r'5 \(head.1.*\) unexpected')


@pytest.mark.parametrize('case', MISFITS)
def test_what_does_not_fit_changes_nothing(case, folder, tmp_path):
    make, message = MISFITS[case]
    mmparax.save_adapter(Model(folder), tmp_path / 'a.safetensors')
    model = make(folder)
    before = values(model)
    for act in (mmparax.load_adapter, load_checkpoint):
        with pytest.raises((ValueError, RuntimeError, FileNotFoundError), match=message) as error:
            act(model, str(tmp_path / 'a.safetensors'))
        assert len(str(error.value).splitlines()) == 1
        assert equal(before, values(model))


def test_names_of_an_arch_and_options_of_training_do_not_matter(folder, tmp_path):
    mmparax.save_adapter(Model(folder), tmp_path / 'a.safetensors')
    mmparax.load_adapter(Model(folder, drop_path_rate=0.3, with_cp=True, out_indices=(-4, 1, 2, 3)), tmp_path / 'a.safetensors')
    with use_meta_device():
        tiny = [
            AdaptedConvNeXt(adapter=METHODS['frozen'][0], allow_random_base=True, **options)
            for options in (dict(arch='tiny'), dict(arch=AdaptedConvNeXt.arch_settings['tiny']), dict(arch='base'))
        ]
    described = [
        dict(type='AdaptedConvNeXt', family='ConvNeXt', options=to_plain_config(model.upstream_options)) for model in tiny
    ]
    check_backbone('', tiny[1], described[0], 'a')
    with pytest.raises(ValueError, match='other options of AdaptedConvNeXt: arch='):
        check_backbone('', tiny[2], described[0], 'a')


REFUSED = {
    'no backbone': (lambda f: nn.Linear(1, 1), {}, 'Linear holds no backbone of mmparax'),
    'nothing frozen': (lambda f: Model(f, None), {}, 'backbone has adapter=None: everything is trainable'),
    'no base': (lambda f: Model(None, allow_random_base=False), {}, 'has no base to identify yet'),
    'dtype': (Model, dict(dtype='int8'), "dtype='int8' is not allowed: choose one of 'float32'"),
    'converted': (lambda f: Model(f).half(), {}, 'weights of Model are float16, not float32 as they were loaded'),
    'metric: a number': (Model, dict(metric=50.3), r'metric=50.3 is not allowed: it is a dict of numbers by name'),
    'metric: a text': (Model, dict(metric=dict(mIoU='high')), r"metric\['mIoU'\]='high' is not allowed: it must be a fini"),
    'metric: an array': (Model, dict(metric=dict(IoU=torch.ones(2))), r"metric\['IoU'\]=tensor.* must be a finite number"),
    'classes alone': (Model, dict(dataset_meta=['a', 'b']), r"dataset_meta=\['a', 'b'\] is not allowed: it is a dict"),
    'classes: a number': (Model, dict(dataset_meta=dict(classes=5)), r"dataset_meta={'classes': 5} is not allowed: it is"),
    'suffix': (Model, dict(path='a.pth'), "path='.*a.pth' is not allowed: adapter files end in .safetensors"),
    'no folder': (Model, dict(path='/proc/absent/a.safetensors'), r'could not be written: .*Make room, or choose another place'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_what_cannot_be_saved(case, folder, tmp_path):
    make, options, message = REFUSED[case]
    options = dict(options)
    path = tmp_path / options.pop('path', 'a.safetensors')
    with pytest.raises((ValueError, RuntimeError, OSError), match=message):
        mmparax.save_adapter(make(folder), path, **options)
    assert not list(tmp_path.iterdir())


def test_a_measure_of_one_element_is_a_number(folder, tmp_path):
    about = mmparax.save_adapter(Model(folder), tmp_path / 'a.safetensors', metric=dict(a=torch.tensor(50.5), b=np.array([2]),
                                                                                        c=np.float32(0.5), d=1))
    assert about['metric'] == read_adapter(tmp_path / 'a.safetensors').about['metric'] == dict(a=50.5, b=2, c=0.5, d=1)


@pytest.mark.parametrize('base', [True, False], ids=['a file', 'random'])
def test_a_converted_model_is_told_from_another_base(base, folder, tmp_path):
    mmparax.save_adapter(Model(folder), tmp_path / 'a.safetensors')
    model = Model(folder if base else None).half()
    for act in (mmparax.load_adapter, load_checkpoint):
        with pytest.raises(ValueError, match='base of Model, whose frozen weights are float16 now, .*load it first, then'):
            act(model, str(tmp_path / 'a.safetensors'))


def test_what_is_no_adapter_file(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match='absent.safetensors'):
        mmparax.load_adapter(Model(folder), 'absent.safetensors')
    with pytest.raises(ValueError, match='adapter files end in .safetensors'):
        mmparax.load_adapter(Model(folder), folder / 'base.pth')


@pytest.fixture
def run_base(tmp_path):
    torch.save(build('frozen', **SHALLOW['swin']).state_dict(), tmp_path / 'base.pth')
    return dict(base_checkpoint=str(tmp_path / 'base.pth'))


def test_runs_start_from_it_and_do_not_resume_from_it(run_base, tmp_path):
    runner = train(tmp_path / 'run', iterations=3, **run_base)
    paths = {}
    for name, options in (('whole', {}), ('headless', dict(include_head=False))):
        paths[name] = str(tmp_path / f'{name}.safetensors')
        mmparax.save_adapter(runner.model, paths[name], **options)
    trained = values(runner.model)
    for name in paths:
        lines, seen = [], {}
        new = build_run(config(tmp_path / name, iterations=3, **run_base), load_from=paths[name])
        new.logger.warning = lambda text, *args, lines=lines: lines.append(text % args if args else str(text))
        head = values(new.model.decode_head)
        new.register_hook(
            type('Look', (mmparax.hooks.EMAHook.__base__, ),
                 dict(before_train=lambda self, runner, seen=seen: seen.update(values(runner.model))))())
        new.train()
        assert equal({key: value for key, value in trained.items() if key.startswith('backbone.')}, seen)
        fresh = [line for line in lines if 'start fresh' in line]
        if name == 'whole':
            assert not fresh and equal(trained, seen)
        else:
            assert len(fresh) == 1 and 'gives the adapter and 0 tensors of the head; the others start fresh' in fresh[0]
            assert not equal({f'decode_head.{key}': value for key, value in head.items()}, trained)
    with pytest.raises(ValueError, match="whole.safetensors' is a published adapter, not a file to resume from: use load_from"):
        train(tmp_path / 'resumed', resume=True, load_from=paths['whole'], iterations=6, **run_base)
    mmparax.utils.locks.unlock_folder(tmp_path / 'resumed')
    with pytest.raises(ValueError, match='was saved without a head, and that of EncoderDecoder would be random'):
        build_run(config(tmp_path / 'test', **run_base), load_from=paths['headless']).val()


@pytest.mark.parametrize('hook', ['', 'EMAHook', 'mmparax.EMAHook'])
def test_a_training_with_other_classes_takes_what_fits(hook, run_base, tmp_path):
    runner = build_run(config(tmp_path / 'run', **run_base))
    mmparax.save_adapter(runner.model, tmp_path / 'a.safetensors')
    cfg = config(tmp_path / 'new', iterations=3, hooks=[dict(type=hook, momentum=0.3)] if hook else [], **run_base)
    cfg.model.decode_head.num_classes = 4
    cfg.train_dataloader.dataset.metainfo = cfg.val_dataloader.dataset.metainfo = dict(classes=tuple('abcd'))
    new, lines = build_run(cfg, load_from=str(tmp_path / 'a.safetensors')), []
    new.logger.warning = lambda text, *args: lines.append(text % args if args else str(text))
    new.train()
    assert len([line for line in lines if 'fresh: 2 (decode_head.conv_seg.weight, decode_head.conv_seg.bias)' in line]) == 1


def test_swin_b_fits_the_budget(tmp_path):
    """A real file of the ADE20K config's backbone: what it holds is zero, what it weighs is not."""
    cfg = get_model_config(load_config('semantic_segmentation/upernet_swin-b_adaroute_4xb4-160k_ade20k-512x512.py'))
    with use_meta_device():
        model = nn.ModuleDict(dict(backbone=MODELS.build(cfg['backbone']))).to_empty(device='cpu')
    model.backbone.base_source = BaseSource.FILE
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.zero_()
    sizes = {}
    for dtype in (None, 'float16'):
        about = mmparax.save_adapter(model, tmp_path / 'a.safetensors', include_head=False, dtype=dtype)
        sizes[dtype] = about['tensors']['bytes'], (tmp_path / 'a.safetensors').stat().st_size
    assert sizes[None][1] <= 21.1e6 and sizes['float16'][0] == sizes[None][0] / 2
    assert max(size - tensors for tensors, size in sizes.values()) < 0.13e6  # names, shapes and the description
