"""The schedule of the COCO tables is trained: an epoch by its schedulers, a checkpoint, and on from there."""
from pathlib import Path

import torch
from mmengine.config import Config

from helpers.cases import FEW_BLOCKS, TINY_SWIN
from helpers.tasks import config
from mmparax.cli import build_runner
from mmparax.datasets.synthetic.writers import write_scenes
from mmparax.utils.launch import use_amp
from mmparax.weights.reader import read_file

SCHEDULE = Path(__file__).parents[2] / 'configs' / '_base_' / 'schedules' / 'coco_1x.py'
BACKBONE = dict(type='mmparax.AdaptedSwin', adapter=dict(type='mmparax.AdaRoute', hidden_dim=4), allow_random_base=True,
                **{**TINY_SWIN, **FEW_BLOCKS['swin']})


def make(scenes, work_dir, epochs):
    cfg = config('detection', scenes, work_dir, BACKBONE)
    for name in ('optim_wrapper', 'param_scheduler', 'train_cfg', 'val_cfg', 'test_cfg', 'default_hooks', 'log_processor',
                 'auto_scale_lr'):
        cfg.pop(name, None)
    cfg = Config({**cfg.to_dict(), **Config.fromfile(SCHEDULE).to_dict()})
    cfg.train_cfg.update(max_epochs=epochs, val_interval=100)
    cfg.train_dataloader.update(sampler=dict(type='DefaultSampler', shuffle=True), batch_size=1)
    cfg.train_dataloader.pop('batch_sampler', None)
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    # The recipe's steps at the scale of a run of a few epochs: the rate falls in the resumed part.
    cfg.param_scheduler[0].end = 3
    cfg.param_scheduler[1].update(milestones=[2, 3], end=epochs)
    cfg.custom_hooks = [dict(type='mmparax.PEFTHook')]
    use_amp(cfg, None)
    return cfg


def test_the_first_checkpoint_of_the_coco_schedule_is_resumed(tmp_path):
    scenes = tmp_path / 'scenes'
    write_scenes(scenes, 2, 1, size=(64, 64), progress=False)
    weights, rates = {}, {}
    first = tmp_path / 'halves' / 'epoch_1.pth'
    for name, epochs in (('whole', (3, )), ('halves', (1, 3))):
        for end in epochs:
            cfg = make(scenes, tmp_path / name, 3)
            cfg.train_cfg.max_epochs = end
            cfg.resume = end != epochs[0]
            runner = build_runner(cfg)
            runner.train()
            if end == 1:  # the last two are kept
                milestones = read_file(first)['param_schedulers'][1]['milestones']
        assert runner.epoch == 3
        saved = read_file(tmp_path / name / 'epoch_3.pth')
        weights[name] = saved['state_dict']
        rates[name] = runner.optim_wrapper.get_lr()['lr'], [state['last_step'] for state in saved['param_schedulers']]
    assert sorted(milestones) == [2, 3]
    assert rates['whole'] == rates['halves'] and max(rates['whole'][0]) < 2e-5  # a tenth
    assert weights['whole'].keys() == weights['halves'].keys()
    assert all(torch.equal(value, weights['halves'][key]) for key, value in weights['whole'].items())
