"""Small real training runs in this process: mmengine's Runner, mmseg's model, random transforms, dropout, drop path."""
import os
import random
import signal
import time
import traceback
from itertools import count
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.registry import DATASETS, METRICS, TRANSFORMS, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from helpers.cases import BACKBONES, FEW_BLOCKS, METHODS

CLASSES, SIZE = 3, (64, 64)
# Fewer blocks than in the table of backbones, and one output.
SHALLOW = {'swin': dict(FEW_BLOCKS['swin'], out_indices=(3, ), pad_small_map=True)}
number = count()


@TRANSFORMS.register_module(force=True)
class Augment:
    """Calls :func:`augment`."""

    def __call__(self, results):
        return augment(results)


def augment(results):
    """Draw from all three generators that transforms use."""
    generator = torch.Generator().manual_seed(int(results['sample_idx']))
    image = torch.randint(256, (3, *SIZE), generator=generator).float()
    image = image * (0.5 + np.random.rand()) + 20 * torch.rand(3, 1, 1)
    if random.random() < 0.5:
        image = image.flip(-1)
    label = torch.randint(CLASSES, (1, *SIZE), generator=generator)
    sample = SegDataSample(gt_sem_seg=PixelData(data=label))
    sample.set_metainfo(dict(img_shape=SIZE, ori_shape=SIZE, pad_shape=SIZE))
    return dict(inputs=image.clamp(0, 255).to(torch.uint8), data_samples=sample)


@DATASETS.register_module(force=True)
class RandomScenes(BaseDataset):
    """Seven fixed images with random transforms."""
    METAINFO = dict(classes=tuple('abc'), palette=[[0, 0, 0]] * 3)

    def load_data_list(self):
        return [dict(name=str(index)) for index in range(7)]


@METRICS.register_module(force=True)
class Agreement(BaseMetric):
    """Share of pixels that are right."""

    def process(self, data_batch, data_samples):
        for sample in data_samples:
            self.results.append(float((sample['pred_sem_seg']['data'] == sample['gt_sem_seg']['data']).float().mean()))

    def compute_metrics(self, results):
        return dict(mIoU=float(np.mean(results)))


def config(work_dir, adapter='adaroute', backbone='swin', iterations=6, interval=3, epochs=None, workers=0, val=True, norm='BN',
           accumulate=1, seed=0, hooks=(), checkpoint=(), **options):
    """The config of a run; ``options`` go to the backbone."""
    cls, _, _ = BACKBONES[backbone]
    method = METHODS[adapter][0] if isinstance(adapter, str) else adapter
    backbone = {
        'type': f'mmparax.{cls.__name__}', 'adapter': method, 'allow_random_base': 'base_checkpoint' not in options,
        **SHALLOW[backbone], 'drop_path_rate': 0.3, **options
    }

    def loader(shuffle, sampler):
        return dict(batch_size=2, num_workers=workers, persistent_workers=False, sampler=dict(type=sampler, shuffle=shuffle),
                    dataset=dict(type='RandomScenes', _scope_='mmengine', pipeline=[dict(type='Augment', _scope_='mmengine')]))

    head = dict(type='FCNHead', in_channels=64, in_index=0, channels=8, num_convs=1, dropout_ratio=0.2, num_classes=CLASSES,
                norm_cfg=dict(type=norm, **(dict(num_groups=2) if norm == 'GN' else {})))
    train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=3) if epochs is None else \
        dict(type='EpochBasedTrainLoop', max_epochs=epochs)
    cfg = dict(
        default_scope='mmseg', work_dir=str(work_dir), experiment_name=f'run{os.getpid()}_{next(number)}',
        model=dict(type='EncoderDecoder', backbone=backbone, decode_head=head, test_cfg=dict(mode='whole'),
                   data_preprocessor=dict(type='SegDataPreProcessor', mean=[127.] * 3, std=[60.] * 3, size=SIZE)),
        train_dataloader=loader(True, 'InfiniteSampler' if epochs is None else 'DefaultSampler'), train_cfg=train_cfg,
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-2), accumulative_counts=accumulate),
        param_scheduler=[dict(type='PolyLR', eta_min=0., power=1., begin=0, end=100, by_epoch=False)], default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1000),
            checkpoint=dict(type='mmparax.CheckpointHook',
                            by_epoch=epochs is not None, interval=interval if epochs is None else 1, max_keep_ckpts=1,
                            **dict(checkpoint))), custom_hooks=[dict(type='mmparax.PEFTHook'),
                                                                *hooks], log_level='ERROR', visualizer=None)
    if seed is not None:
        cfg['randomness'] = dict(seed=seed)
    if val:
        test = dict(loader(False, 'DefaultSampler'), num_workers=0, persistent_workers=False)
        test['dataset']['indices'] = 3
        cfg.update(val_dataloader=test, val_cfg={}, val_evaluator=dict(type='Agreement', _scope_='mmengine'))
    return Config(cfg)


def build(cfg, resume=False, **options):
    """The runner of a config, as tools/train.py makes it."""
    cfg.update(resume=resume, **options)
    cfg.experiment_name = f'run{os.getpid()}_{next(number)}'
    init_default_scope('mmseg')
    return Runner.from_cfg(cfg)


def train(work_dir, resume=False, load_from=None, **options):
    """Train and return the runner."""
    runner = build(config(work_dir, **options), resume, load_from=load_from)
    runner.train()
    return runner


def saved(work_dir):
    """The content of the last checkpoint of a work dir."""
    return torch.load((Path(work_dir) / 'last_checkpoint').read_text(), weights_only=False)


def same(first, second):
    """Names of the tensors that two state dicts have otherwise."""
    assert list(first) == list(second)
    return [name for name in first if not torch.equal(first[name], second[name])]


def in_child(function, *arguments, kill_after=None):
    """Run a function in a forked process, kill it after some seconds if asked to; return its exit code (-9 if killed)."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            function(*arguments)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
