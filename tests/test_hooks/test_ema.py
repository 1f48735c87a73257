"""Moving averages of the trainable parameters: equal to mmengine's, through validation, save and resume."""
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from helpers.runs import build, config, same, saved, train
from mmparax.hooks import EMAHook

OURS, THEIRS = dict(type='mmparax.EMAHook', momentum=0.3), dict(type='EMAHook', momentum=0.3)


@HOOKS.register_module(force=True)
class Evaluated(Hook):
    """Keeps what is evaluated and what training goes on with."""
    weights = {}
    priority = 'LOWEST'

    def before_val_epoch(self, runner):
        self.weights['val'] = {name: value.clone() for name, value in runner.model.state_dict().items()}

    def after_val_epoch(self, runner, metrics=None):
        self.weights['after'] = {name: value.clone() for name, value in runner.model.state_dict().items()}


@pytest.mark.parametrize('adapter', ['adaroute', 'frozen', None])
def test_equals_mmengines_hook_that_copies_the_whole_model(adapter, tmp_path):
    results = []
    for hook in (OURS, THEIRS):
        train(tmp_path / hook['type'], adapter=adapter, hooks=[hook, dict(type='Evaluated', _scope_='mmengine')])
        results.append((saved(tmp_path / hook['type']), dict(Evaluated.weights)))
    (ours, our_weights), (theirs, their_weights) = results
    assert not same(ours['state_dict'], theirs['state_dict'])
    assert not same(our_weights['val'], their_weights['val']) and not same(our_weights['after'], their_weights['after'])
    for name, value in ours['ema_state_dict'].items():
        assert torch.equal(value, theirs['ema_state_dict'][name])


@pytest.fixture(scope='module')
def averaged(tmp_path_factory):
    """A folder with a run of ours, and its runner."""
    folder = tmp_path_factory.mktemp('averaged')
    return folder, train(folder, hooks=[OURS])


def test_only_trainable_parameters_are_averaged(averaged):
    folder, runner = averaged
    trainable = {name for name, parameter in runner.model.named_parameters() if parameter.requires_grad}
    content = saved(folder)
    assert {name[7:] for name in content['ema_state_dict'] if name != 'steps'} == trainable
    averages = next(hook for hook in runner.hooks if isinstance(hook, EMAHook)).averages
    raw = dict(runner.model.named_parameters())
    for name in trainable:
        assert torch.equal(content['state_dict'][name], averages[name])
        assert torch.equal(content['ema_state_dict'][f'module.{name}'], raw[name])
    assert any(not torch.equal(averages[name], raw[name]) for name in trainable)


def test_the_average_is_the_formula(tmp_path):

    class Recorder(Hook):
        priority = 'HIGHEST'
        values = []

        def after_train_iter(self, runner, **_):
            self.values.append(runner.model.decode_head.conv_seg.weight.detach().clone())

    runner = build(config(tmp_path, hooks=[dict(OURS, interval=2, begin_iter=2)], iterations=7, val=False))
    runner.register_hook(Recorder())
    runner.train()
    values = Recorder.values
    expected = values[1]  # averaging begins with the second iteration, by a copy
    for step, value in enumerate(values[2:], 1):
        if step % 2 == 0:
            expected = expected + 0.3 * (value - expected)
    averages = next(hook for hook in runner.hooks if isinstance(hook, EMAHook)).averages
    torch.testing.assert_close(averages['decode_head.conv_seg.weight'], expected, rtol=0, atol=1e-6)


def test_a_test_run_evaluates_the_averages(averaged, tmp_path):
    folder, _ = averaged
    cfg = config(tmp_path / 'test', hooks=[OURS, dict(type='Evaluated', _scope_='mmengine')])
    runner = build(cfg, load_from=(folder / 'last_checkpoint').read_text())
    runner.val()
    assert not same(dict(runner.model.state_dict()), dict(saved(folder)['state_dict']))
    assert not same(Evaluated.weights['val'], runner.model.state_dict())


def test_a_test_after_training_evaluates_the_averages_too(tmp_path):
    cfg = config(tmp_path, hooks=[OURS], iterations=3)
    cfg.update(test_dataloader=cfg.val_dataloader, test_cfg={}, test_evaluator=cfg.val_evaluator)
    runner = build(cfg)
    runner.train()
    raw = {name: value.clone() for name, value in runner.model.state_dict().items()}
    seen = []
    evaluate = runner.model.test_step
    runner.model.test_step = lambda data: (seen.append(same(runner.model.state_dict(),
                                                            saved(tmp_path)['state_dict'])), evaluate(data))[1]
    runner.test()
    assert seen and not any(seen) and not same(runner.model.state_dict(), raw)


def test_a_checkpoint_without_averages_starts_them_from_its_weights(tmp_path):
    train(tmp_path, iterations=3)
    before = saved(tmp_path)['state_dict']
    runner = build(config(tmp_path, hooks=[OURS]), resume=True)
    hook = next(hook for hook in runner.hooks if isinstance(hook, EMAHook))
    seen = {}
    original = hook.before_train
    hook.before_train = lambda runner: (original(runner), seen.update({n: v.clone() for n, v in hook.averages.items()}))
    runner.train()
    assert seen and all(torch.equal(value, before[name]) for name, value in seen.items())


@pytest.mark.parametrize(
    'option', [dict(momentum=0.), dict(momentum=1.),
               dict(momentum='x'),
               dict(interval=0), dict(begin_iter=-1)], ids=str)
def test_wrong_options_are_named(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        EMAHook(**option)
