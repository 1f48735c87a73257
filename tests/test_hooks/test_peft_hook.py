"""What the log says at the start of a run, and which runs PEFTHook stops."""
import re

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import HOOKS
from torch import nn

import mmparax
from helpers.cases import build as build_backbone
from helpers.runs import build, config, same, saved, train
from mmparax.backbones.parameters import count_parameters
from mmparax.errors import ParameterError, TrainingError
from mmparax.hooks import PEFTHook
from mmparax.hooks.peft_hook import describe_operations
from mmparax.ops.dispatch import describe_backend, use_backend


@HOOKS.register_module(force=True)
class Act(Hook):
    """Calls a function of the runner at a moment of the run."""
    actions = {}
    priority = 'LOWEST'

    def __init__(self, moment, name):
        setattr(self, moment, lambda runner, **_: self.actions[name](runner))


def acting(moment, action):
    name = f'{moment}{len(Act.actions)}'
    Act.actions[name] = action
    return dict(type='Act', moment=moment, name=name, _scope_='mmengine')


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Train a model and return what it logged."""

    def run(*, cfg=None, folder='run', **options):
        lines = []
        cfg_ = config(tmp_path / folder, **{'val': False, 'iterations': 2, **options})
        cfg_.merge_from_dict(cfg or {})
        runner = build(cfg_)
        for level in ('info', 'warning'):
            monkeypatch.setattr(runner.logger, level, lambda text, *args: lines.append(text % args if args else str(text)))
        runner.train()
        return runner, '\n'.join(lines)

    return run


@pytest.mark.parametrize('method', ['adaroute', 'frozen', None])
def test_table_has_every_part_with_its_share(method, run):
    runner, text = run(adapter=method)
    model = runner.model
    count = count_parameters(model)
    expected = {
        'output norms': count.output_norms.parameters, 'head': count.head.parameters, 'trainable': count.trainable,
        'trainable in backbone': count.trainable_in_backbone
    }
    if method is None:
        expected['backbone, trainable'] = count.backbone_trainable.parameters
    else:
        expected['backbone, frozen'] = count.backbone_frozen.parameters
    if method == 'adaroute':
        expected.update({'adapters': count.adapters.parameters, 'expert centers': count.centers.parameters})
    total = sum(parameter.numel() for parameter in model.parameters())
    for label, number in expected.items():
        row = re.search(rf'│ {label} +│ +[\d,]* *│ +([\d,]+) │ +[\d.%]* *│ +([\d.]+)% │', text)
        assert int(row.group(1).replace(',', '')) == number > 0
        assert abs(float(row.group(2)) - 100 * number / total) < 0.006
    assert sum(rows[2] for rows in count.rows()) == total == count.total
    assert f'First step: all {sum(p.requires_grad for p in model.parameters())} trainable parameters' in text
    assert ('unchanged, byte by byte' in text) == (method is not None)
    assert (str(mmparax.fingerprint(model)) in text) == (method is not None)


def test_the_log_says_what_runs_the_operations(run):
    for backend in ('reference', 'fused'):
        with use_backend(backend):
            _, text = run(folder=backend)
        assert f'Operations of AdaRoute: {backend} (' in text and 'float32' in text
    _, text = run(adapter='frozen', folder='frozen')
    assert 'Operations of AdaRoute' not in text


def test_what_runs_the_operations_in_other_precision(monkeypatch):
    monkeypatch.setattr('mmengine.optim.optimizer.amp_optimizer_wrapper.is_cuda_available', lambda: True)
    model = build_backbone('adaroute')
    optimizer = torch.optim.SGD(model.parameters(), lr=1.)
    half = AmpOptimWrapper(optimizer=optimizer, dtype='bfloat16', loss_scale=dict(enabled=False))
    assert describe_operations(model, half) == describe_backend('cpu', autocast=torch.bfloat16)
    assert 'bfloat16' in describe_operations(model, half)
    assert 'float32' in describe_operations(model, OptimWrapper(optimizer))
    assert describe_operations(model, half, compiled=True) == 'reference (PyTorch, compiled)'
    assert describe_operations(build_backbone('frozen'), half) is None


SCHEDULES = {  # batch of the recipe, enabled, accumulation -> parts of the log
    'no-recipe': (None, False, 1, ['Effective batch size 2 = 1 process(es) x 2 images x 1 accumulated step(s). Learning rate '
                                   'after warm-up: 0.01.'], []),
    'fits': (8, False, 4, ['batch size 8 =', 'the recipe is for 8, the learning rate was not scaled'], ['Note']),
    'other-batch': (16, False, 1, [
        'Note: the effective batch size is 2, the learning rate is for 16: use auto_scale_lr.enable=True'], []),
    'scaled': (8, True, 1, ['the learning rate was scaled. Learning rate after warm-up: 0.0025.'], ['Note']),
    'scaled-accumulated': (8, True, 2, ['Note: auto_scale_lr counts 2 images and not the 2 accumulated'], []),
}


@pytest.mark.parametrize('case', SCHEDULES)
def test_batch_and_rate_are_compared_with_the_recipe(case, run):
    recipe, enable, accumulate, present, absent = SCHEDULES[case]
    scale = {} if recipe is None else dict(auto_scale_lr=dict(base_batch_size=recipe, enable=enable))
    _, text = run(cfg=scale, accumulate=accumulate, iterations=accumulate)
    assert all(part in text for part in present) and not any(part in text for part in absent)


def test_a_recomputation_that_loses_gradients_is_refused(run):
    with pytest.raises(ValueError, match="activation_checkpointing=.*Use model.backbone.with_cp=True"):
        run(cfg=dict(activation_checkpointing=['backbone.stages.0']))


def test_evaluation_with_augmentation_is_checked_as_well(tmp_path):
    """Test-time augmentation wraps the model; the keys of a checkpoint are those of the model inside."""
    train(tmp_path, iterations=3)
    cfg = config(tmp_path / 'test')
    cfg.model = dict(type='SegTTAModel', module=cfg.model)
    runner = build(cfg, load_from=(tmp_path / 'last_checkpoint').read_text())
    runner.load_or_resume()
    assert not same(runner.model.module.state_dict(), saved(tmp_path)['state_dict'])
    cfg.model.module.backbone.adapter = dict(type='mmparax.Frozen')
    with pytest.raises(ValueError, match='trained with the adapter AdaRoute, but backbone has Frozen'):
        build(cfg, load_from=(tmp_path / 'last_checkpoint').read_text()).load_or_resume()


def test_an_option_is_refused():
    with pytest.raises(ParameterError, match="save='all' is not allowed: .* set by default_hooks.checkpoint.save") as refused:
        PEFTHook(save='all')
    assert refused.value.parameter == 'save' and '. ' not in str(refused.value)
    with pytest.raises(ValueError, match="PEFTHook has no option 'other'"):
        PEFTHook(other=1)


def test_it_runs_first_and_leaves_the_list_of_hooks_alone(tmp_path):
    """Hooks of moving averages copy from a checkpoint after it was judged."""
    for averages in (dict(type='mmparax.EMAHook', momentum=0.3, priority='VERY_HIGH'), dict(type='EMAHook', momentum=0.3)):
        runner = build(config(tmp_path, hooks=[averages], val=False, iterations=1))
        hooks = list(runner.hooks)
        assert isinstance(hooks[0], PEFTHook)
        runner.train()
        assert runner.hooks == hooks


def test_a_stock_checkpoint_hook_is_named(run):
    _, text = run(cfg={'default_hooks.checkpoint.type': 'CheckpointHook'})
    assert "type='mmparax.CheckpointHook' in default_hooks.checkpoint" in text


def test_an_unused_parameter_is_named(run):

    def add(runner):
        runner.model.decode_head.spare = nn.Parameter(torch.ones(3))
        runner.optim_wrapper.optimizer.add_param_group(dict(params=[runner.model.decode_head.spare]))

    with pytest.raises(RuntimeError, match='decode_head.spare got no gradient, and 0 more of .* several processes'):
        run(hooks=[acting('before_train', add)])
    for name in ('find_unused_parameters', 'model_wrapper_cfg.find_unused_parameters'):
        run(hooks=[acting('before_train', add)], cfg={name: True}, folder=name)


def test_trainable_parameters_are_in_the_optimizer(run):

    def add(runner):
        runner.model.decode_head.late = nn.Parameter(torch.ones(3))

    with pytest.raises(RuntimeError, match='decode_head.late is trainable, but is not in the optimizer exactly once, nor'):
        run(hooks=[acting('before_run', add)])


def test_a_gradient_that_is_not_finite_is_named(run):

    def break_it(runner):
        runner.model.decode_head.conv_seg.weight.register_hook(lambda gradient: gradient / 0)

    with pytest.raises(RuntimeError, match='first gradient of decode_head.conv_seg.weight is not finite'):
        run(hooks=[acting('before_train', break_it)])


def first_frozen(runner):
    return next((name, p) for name, p in runner.model.named_parameters() if not p.requires_grad)


@torch.no_grad()
def write_in_place(runner):
    first_frozen(runner)[1].add_(1)


def write_past_autograd(runner):
    first_frozen(runner)[1].data.add_(1)


def replace(runner):
    first_frozen(runner)[1].data = first_frozen(runner)[1].data + 1


def thaw(runner):
    first_frozen(runner)[1].requires_grad_(True)


OFFENCES = {
    'in-place': (write_in_place, 'frozen parameter backbone.* was changed by iteration'),
    'past-autograd': (write_past_autograd, 'has other bytes'),
    'replaced': (replace, 'frozen parameter backbone.* was changed by iteration'),
    'thawed': (thaw, 'was frozen and is not any more')
}


@pytest.mark.parametrize('offence', OFFENCES)
def test_a_frozen_base_that_changes_stops_the_run(offence, run):
    act, message = OFFENCES[offence]
    with pytest.raises(RuntimeError, match=message):
        run(hooks=[acting('after_train_iter', act)], iterations=1)


def test_a_change_is_found_before_the_next_checkpoint(tmp_path, run):

    def at_five(runner):
        if runner.iter == 4:
            write_in_place(runner)

    with pytest.raises(RuntimeError, match='by iteration'):
        run(hooks=[acting('after_train_iter', at_five)], iterations=9, interval=3)
    assert saved(tmp_path / 'run')['meta']['iter'] == 3


def test_synchronised_norms_need_gpus(run):

    def add(runner):
        runner.model.decode_head.sync = nn.SyncBatchNorm(2).requires_grad_(False)

    with pytest.raises(ValueError, match='decode_head.sync is a synchronised batch norm'):
        run(hooks=[acting('before_run', add)])


def test_a_model_without_our_backbone_is_an_error():
    with pytest.raises(ValueError, match="Linear holds no backbone of mmparax.*AdaptedSwin"):
        count_parameters(nn.Linear(2, 2))


def test_as_dict_is_plain():
    numbers = count_parameters(build_backbone('adaroute')).as_dict()
    assert numbers['adapters']['parameters'] > 0 and isinstance(numbers['trainable_in_backbone'], int)


@pytest.mark.parametrize('interval, stops_at', [(4, 4), (50, 6)], ids=['at a log interval', 'at the end'])
def test_a_loss_that_is_not_finite_ends_the_run(run, interval, stops_at):
    """With this rate it is finite in the first step alone."""
    changes = {'optim_wrapper.optimizer.lr': 1e30, 'default_hooks.logger': dict(type='LoggerHook', interval=interval)}
    with pytest.raises(TrainingError, match=rf'the loss is (nan|inf) at iteration {stops_at}: .* \(now 1e\+30\)'):
        run(iterations=6, cfg=changes)
