"""Checkpoints without the frozen base: what they hold, that nothing is lost by it, and what is refused."""
import pickle
import re

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import LogProcessor
from mmengine.runner.checkpoint import load_checkpoint

from helpers.cases import build as build_backbone
from helpers.config_files import build as build_config
from helpers.config_files import load
from helpers.runs import SHALLOW, build, config, same, saved
from mmparax.backbones.base_weights import BaseSource
from mmparax.backbones.parameters import count_parameters
from mmparax.checkpoint.contents import drop_frozen, trim_histories
from mmparax.errors import ParameterError
from mmparax.hooks import CheckpointHook

OURS, THEIRS = dict(type='mmparax.EMAHook', momentum=0.3), dict(type='EMAHook', momentum=0.3)


@pytest.fixture(scope='module')
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp('bases')
    for seed, name in enumerate(('one', 'two'), 5):
        torch.manual_seed(seed)
        torch.save(build_backbone('frozen', **SHALLOW['swin']).state_dict(), folder / f'{name}.pth')
    return folder


def run(folder, base, resume=False, save='trainable', lines=None, **options):
    cfg = config(folder, base_checkpoint=str(base), **options)
    cfg.default_hooks.checkpoint.save = save
    runner = build(cfg, resume)
    if lines is not None:
        runner.logger.info = lambda text, *args: lines.append(text % args if args else str(text))
    runner.train()
    return runner


def base_of(model):
    return {f'backbone.{name}' for name in model.backbone.frozen_names()}


@pytest.mark.parametrize('method', ['adaroute', 'bitfit', 'vpt', 'frozen'])
def test_what_is_in_it(method, bases, tmp_path):
    runner = run(tmp_path, bases / 'one.pth', adapter=method, iterations=3, hooks=[OURS])
    content, state = saved(tmp_path), runner.model.state_dict()
    frozen = base_of(runner.model)
    assert set(content['state_dict']) == set(state) - frozen and set(state) > frozen
    buffers = [name for name in content['state_dict'] if 'running_' in name or 'num_batches' in name]
    assert len(buffers) == 6 and all(name.startswith('decode_head') for name in buffers)
    trainable = {name for name, parameter in runner.model.named_parameters() if parameter.requires_grad}
    assert trainable <= set(content['state_dict']) and {name[7:] for name in content['ema_state_dict']} - {''} == trainable
    assert len(state) == len(runner.model.state_dict())  # the model itself gives all, as it always does


@pytest.fixture(scope='module')
def short(bases, tmp_path_factory):
    """The folder of a short run on the first base, which is only read."""
    folder = tmp_path_factory.mktemp('short')
    run(folder, bases / 'one.pth', iterations=3)
    return folder


WITH_BUFFERS = dict(THEIRS, update_buffers=True)


@pytest.mark.parametrize(
    'hook', [pytest.param(None, marks=pytest.mark.full), OURS, THEIRS,
             pytest.param(WITH_BUFFERS, marks=pytest.mark.full)],
    ids=['plain', 'our averages', "mmengine's averages", 'averages of buffers'])
def test_a_run_resumed_from_it_is_the_undisturbed_one(hook, bases, tmp_path):
    options = dict(base=bases / 'one.pth', hooks=[hook] if hook else [])
    run(tmp_path / 'whole', save='all', **options)
    run(tmp_path / 'parts', iterations=3, **options)
    model = run(tmp_path / 'parts', resume=True, **options).model
    whole, parts = saved(tmp_path / 'whole'), saved(tmp_path / 'parts')
    frozen = base_of(model)
    assert frozen <= set(whole['state_dict']) and not frozen & set(parts['state_dict'])
    keys = ['state_dict'] + (['ema_state_dict'] if hook else [])
    for key in keys:
        kept = {name: whole[key][name] for name in parts[key]}
        assert set(whole[key]) - set(kept) <= {prefix + name for name in frozen for prefix in ('', 'module.')}
        assert not same(kept, dict(parts[key]))
    for number, state in whole['optimizer']['state'].items():
        assert not same(state, parts['optimizer']['state'][number])
    assert whole['param_schedulers'] == parts['param_schedulers']


def test_resuming_changes_between_whole_and_small_files(bases, tmp_path):
    run(tmp_path, bases / 'one.pth', iterations=3, save='all')
    run(tmp_path, bases / 'one.pth', resume=True)
    run(tmp_path / 'whole', bases / 'one.pth')
    assert not same(saved(tmp_path)['state_dict'], saved(tmp_path / 'whole')['state_dict'])


@pytest.mark.parametrize('adapter, random', [('adaroute', True), (None, False)], ids=['random base', 'full fine-tuning'])
def test_a_base_that_exists_nowhere_else_stays(adapter, random, bases, tmp_path):
    options = dict(allow_random_base=True) if random else dict(base_checkpoint=str(bases / 'one.pth'))
    runner, lines = build(config(tmp_path, adapter=adapter, iterations=3, **options)), []
    runner.logger.info = lambda text, *args: lines.append(text % args if args else str(text))
    runner.train()
    assert set(saved(tmp_path)['state_dict']) == set(runner.model.state_dict())
    assert any('Checkpoints hold the frozen base, too' in line for line in lines) == random


def test_the_best_and_the_latest_are_small_and_outdated_ones_go(bases, tmp_path):
    cfg = config(tmp_path, base_checkpoint=str(bases / 'one.pth'), iterations=9, checkpoint=dict(save_best='mIoU'))
    cfg.default_hooks.checkpoint.max_keep_ckpts = 2
    build(cfg).train()
    best, *more = tmp_path.glob('best_*.pth')
    assert not more and sorted(path.name for path in tmp_path.glob('iter_*.pth')) == ['iter_6.pth', 'iter_9.pth']
    for path in tmp_path.glob('*.pth'):
        assert not any('.attn.' in name and 'adapters' not in name for name in torch.load(path, weights_only=False)['state_dict'])
    whole = tmp_path / 'whole'
    run(whole, bases / 'one.pth', save='all', iterations=3)
    assert best.stat().st_size < (whole / 'iter_3.pth').stat().st_size / 2


class Logged(Hook):
    """What the log processor would write after every iteration."""
    priority = 'VERY_LOW'

    def __init__(self):
        self.values = {}

    def after_train_iter(self, runner, **_):
        tag, _ = runner.log_processor.get_log_after_iter(runner, runner.iter, 'train')
        self.values[runner.iter] = {name: value for name, value in tag.items() if 'time' not in name}


def test_logged_values_go_on_after_a_resume(bases, tmp_path):
    logged = []
    for folder, parts in (('whole', [8]), ('parts', [4, 8])):
        found = {}
        for number, iterations in enumerate(parts):
            cfg = config(tmp_path / folder, base_checkpoint=str(bases / 'one.pth'), iterations=iterations, interval=4, val=False)
            cfg.log_processor = dict(
                window_size=2, by_epoch=False, custom_cfg=[
                    dict(data_src='loss', log_name='long', method_name='mean', window_size=5),
                    dict(data_src='decode.acc_seg', log_name='ever', method_name='max', window_size='global')
                ])
            runner = build(cfg, resume=number > 0)
            runner.register_hook(Logged())
            runner.train()
            found.update(next(hook for hook in runner.hooks if isinstance(hook, Logged)).values)
        logged.append(found)
    assert logged[0] == logged[1] and len(logged[0]) == 8 and {'long', 'ever', 'loss'} <= set(logged[0][7])
    scalars = saved(tmp_path / 'whole')['message_hub']['log_scalars']
    assert [len(scalars[f'train/{name}'].data[0]) for name in ('loss', 'lr', 'decode.acc_seg')] == [5, 2, 8]


def test_the_message_hub_does_not_grow_with_the_run():
    sizes = []
    for iterations in (100, 20_000):
        hub = MessageHub(f'hub{iterations}')
        for number in range(12):
            hub.log_scalars[f'train/value{number}'] = HistoryBuffer(list(torch.rand(iterations).tolist()), [1] * iterations)
            hub._set_resumed_keys(f'train/value{number}', True)
        state = hub.state_dict()
        trim_histories(state, LogProcessor(window_size=50))
        sizes.append(len(pickle.dumps(state)))
        assert all(len(history.data[0]) == iterations for history in hub.log_scalars.values())
        for name, history in hub.log_scalars.items():
            assert state['log_scalars'][name].mean(50) == history.mean(50) and state['log_scalars'][name].max_length == 1000000
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02) and sizes[1] < 20_000


def test_evaluation_and_a_new_run_take_it_with_the_base_at_hand(short, bases, tmp_path):
    path, content = (short / 'last_checkpoint').read_text(), saved(short)
    cfg = config(tmp_path / 'test', base_checkpoint=str(bases / 'one.pth'))
    runner = build(cfg, load_from=path)
    runner.val()
    assert all(torch.equal(value, runner.model.state_dict()[name]) for name, value in content['state_dict'].items())
    assert runner.model.backbone.base_source is BaseSource.FILE
    build(config(tmp_path / 'new', base_checkpoint=str(bases / 'one.pth'), iterations=3), load_from=path).train()
    refused = {'absent.pth': "base_checkpoint='.*absent.pth' does not exist", 'two.pth': 'trained on another base'}
    for name, message in refused.items():
        for act in ('val', 'train'):
            with pytest.raises((FileNotFoundError, ValueError), match=message):
                getattr(build(config(tmp_path / act, base_checkpoint=str(bases / name)), load_from=path), act)()
    for options, message in ((dict(allow_random_base=True), r'trained on .*one.pth.*is random \(allow_random_base=True\)'),
                             (dict(allow_random_base=False), 'holds no frozen base, and AdaptedSwin has no base_checkpoint')):
        model = build(config(tmp_path / 'none', **options)).model
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises((ValueError, RuntimeError), match=message):
            load_checkpoint(model, path)
        assert not same(before, dict(model.state_dict()))


def test_a_file_without_a_base_must_say_whose_it_is(short, bases, tmp_path):
    torch.save(dict(state_dict=saved(short)['state_dict']), tmp_path / 'bare.pth')
    model = build(config(tmp_path / 'test', base_checkpoint=str(bases / 'one.pth'))).model
    with pytest.raises(ValueError, match='holds no frozen base and does not say on which one it was trained'):
        load_checkpoint(model, str(tmp_path / 'bare.pth'))


def test_nothing_is_said_to_be_missing(short, bases, tmp_path, capsys):
    model = build(config(tmp_path / 'test', base_checkpoint=str(bases / 'one.pth'))).model
    capsys.readouterr()
    load_checkpoint(model, (short / 'last_checkpoint').read_text())
    assert not re.search('missing|unexpected', capsys.readouterr().out)
    assert not model.load_state_dict(saved(short)['state_dict']).missing_keys  # torch's own loading, strict


def test_swin_b_with_upernet_is_adapters_and_head():
    """Counted on the tensors of the ADE20K config, without their memory."""
    model = build_config(load('semantic_segmentation/upernet_swin-b_adaroute_4xb4-160k_ade20k-512x512.py'))
    model.backbone.base_source = BaseSource.FILE
    checkpoint = dict(state_dict=model.state_dict())
    drop_frozen(checkpoint, model)
    size = sum(value.nbytes for value in checkpoint['state_dict'].values())
    count = count_parameters(model)
    assert size == pytest.approx(4 * (count.trainable_in_backbone + count.head.parameters), rel=0.01)
    assert size < 0.4 * sum(value.nbytes for value in model.state_dict().values())


def test_a_wrong_option_is_named():
    assert CheckpointHook().save == 'trainable'
    with pytest.raises(ParameterError, match="save='some' is not allowed: choose one of 'trainable', 'all'"):
        CheckpointHook(save='some')
