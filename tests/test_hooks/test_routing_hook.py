"""RoutingHook in real runs: what it writes, what it does not count, what it warns of."""
import json
import logging
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.routing import Net, set_gates
from helpers.runs import build, config, train
from mmparax.errors import InputError
from mmparax.hooks import RoutingHook


def scalars(work_dir):
    """Step -> what the hook wrote for it."""
    file, = Path(work_dir).glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return {line.pop('step'): line for line in lines if any(name.startswith('routing/') for name in line)}


@pytest.fixture
def counted(monkeypatch):
    """Number of images of each record of a hook."""
    images, original = [], RoutingHook._make_scalars

    def count_images(self, statistics):
        images.append(self._sums.images)
        return original(self, statistics)

    monkeypatch.setattr(RoutingHook, '_make_scalars', count_images)
    return images


def test_hook_records_training_images_once(counted, tmp_path):
    """With recomputation, accumulation and evaluation in between: the same numbers as without, and nothing stays behind."""
    hook = dict(type='mmparax.RoutingHook', interval=2)
    train(tmp_path / 'plain', iterations=5, hooks=[hook], val=False)
    runner = train(tmp_path / 'cp', iterations=5, hooks=[hook], with_cp=True)
    assert counted == [4, 4, 2] * 2
    plain, recomputed = scalars(tmp_path / 'plain'), scalars(tmp_path / 'cp')
    assert list(plain) == [2, 4, 5]
    # Only stage 3 of this backbone has two blocks and so two experts.
    groups = ('down', 'up', 'kernels.0', 'kernels.1', 'kernels.2')
    assert set(plain[2]) == {
        f'routing/stage3/{group}/{name}' for group in groups
        for name in ('entropy', 'dependence', 'largest_usage', 'dead_experts')
    }
    assert 0.5 <= plain[2]['routing/stage3/down/largest_usage'] <= 1 and 0 < plain[2]['routing/stage3/down/entropy'] <= 1
    for step, values in plain.items():
        assert recomputed[step] == pytest.approx(values, rel=1e-4, abs=1e-6)
    assert not any(module._forward_hooks for module in runner.model.backbone.modules())
    pickle.dumps(runner.model.backbone)


def test_hook_for_each_adapter_while_gradients_accumulate(counted, tmp_path):
    hooks = [dict(type='mmparax.RoutingHook', interval=4, per_adapter=True), dict(type='mmparax.EMAHook', momentum=0.3)]
    train(tmp_path, iterations=4, accumulate=2, val=False, hooks=hooks)
    found = scalars(tmp_path)[4]
    assert counted == [8]
    places = [
        f'routing/stage3/block{block:02d}/{site}/up' for block in (1, 2) for site in ('after_token_mixer', 'after_channel_mixer')
    ]
    assert len(found) == 5 * 4 + 20 * (4 + 2)
    for place in places:
        assert sum(found[f'{place}/usage/expert{expert}'] for expert in (1, 2)) == pytest.approx(1)
    assert found['routing/stage3/up/entropy'] == pytest.approx(np.mean([found[f'{place}/entropy'] for place in places]))


def test_hook_warns_once(caplog):
    model, hook = Net(), RoutingHook()
    set_gates(model, lambda experts: [0.] + [-20.] * (experts - 1))
    written = []
    logger = logging.getLogger('routing of a test')
    runner = SimpleNamespace(cfg={}, model=model, logger=logger, max_iters=1000, iter=0,
                             visualizer=SimpleNamespace(add_scalars=lambda values, step: written.append((step, values))))
    hook.before_train(runner)
    for runner.iter in (48, 49, 148, 149, 199):
        hook.before_train_iter(runner, 0)
        model.backbone(torch.randn(2, 3, 64, 64))
        model.backbone(torch.randn(2, 3, 64, 64))  # a second forward of an iteration does not count
        hook.after_train_iter(runner, 0)
    assert [step for step, _ in written] == [50, 150, 200]
    assert written[0][1]['routing/stage3/down/dead_experts'] == 3 * 8
    messages = [record.message for record in caplog.records]
    assert len(messages) == 2 and 'Dead experts' in messages[0] and 'do not depend on the input' in messages[1]
    hook.after_train(runner)
    assert len(written) == 3  # nothing was left


@pytest.mark.parametrize('method, cfg, message', [
    ('frozen', {}, 'has no AdaRoute adapter'),
    ('adaroute', dict(compile=True), "RoutingHook .* remove 'compile' from the config"),
])
def test_hook_refuses(method, cfg, message):
    with pytest.raises(InputError, match=message):
        RoutingHook().before_train(SimpleNamespace(cfg=cfg, model=Net(method)))


@pytest.mark.parametrize('options, message', [(dict(interval=0), 'interval=0'), (dict(per_adapter='yes'), "per_adapter='yes'")])
def test_hook_checks_its_arguments(options, message):
    with pytest.raises(InputError, match=message):
        RoutingHook(**options)


def test_hook_resumes(tmp_path):
    """A resumed run records from where it goes on."""
    hook = dict(type='mmparax.RoutingHook', interval=3)
    train(tmp_path, iterations=3, val=False, hooks=[hook])
    runner = build(config(tmp_path, iterations=6, val=False, hooks=[hook]), resume=True)
    runner.train()
    steps = [
        json.loads(line)['step'] for file in sorted(tmp_path.glob('*/vis_data/scalars.json'))
        for line in file.read_text().splitlines() if 'routing/' in line
    ]
    assert steps == [3, 6]
