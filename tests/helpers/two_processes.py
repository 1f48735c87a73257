"""Run by two processes (see test_launch.py): what must hold between them. Writes what went wrong to a file of each."""
import copy
import sys
import time
import traceback
from pathlib import Path

import torch
from mmengine.dist import all_gather_object, barrier, get_rank
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from test_tasks import CELLS, COLUMNS

from helpers import runs
from helpers.cases import CASES as ADAPTED
from helpers.cases import FEW_BLOCKS, METHODS, images
from helpers.cases import build as build_backbone
from helpers.tasks import backbone_config
from helpers.tasks import config as task_config
from mmparax.datasets.synthetic.writers import write_scenes
from mmparax.errors import InputError
from mmparax.inference.metrics import select_paper_metrics
from mmparax.utils.launch import prepare_processes
from mmparax.utils.locks import unlock_folder


def start(cfg):
    cfg.launcher = 'pytorch'
    prepare_processes(cfg)
    return cfg


def gradients_are_those_of_one_process(folder):
    """Half a batch each, averaged: the gradients of the whole batch; the shared centers are recomputed under DDP."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (4, 3, *runs.SIZE), generator=generator, dtype=torch.uint8)
    labels = torch.randint(runs.CLASSES, (4, 1, *runs.SIZE), generator=generator)
    results = []
    for with_cp in (False, True):
        torch.manual_seed(3)
        cfg = start(runs.config(folder, norm='GN', drop_path_rate=0., with_cp=with_cp))
        cfg.model.decode_head.dropout_ratio = 0
        model = MODELS.build(cfg.model)
        model.init_weights()
        alone, wrapped = copy.deepcopy(model), MMDistributedDataParallel(model, device_ids=None, broadcast_buffers=False)

        def loss(net, part, data_preprocessor=model.data_preprocessor):
            samples = []
            for label in labels[part]:
                sample = runs.SegDataSample(gt_sem_seg=runs.PixelData(data=label))
                sample.set_metainfo(dict(img_shape=runs.SIZE, ori_shape=runs.SIZE, pad_shape=runs.SIZE))
                samples.append(sample)
            data = data_preprocessor(dict(inputs=list(images[part]), data_samples=samples), True)
            return net(**data, mode='loss')['decode.loss_ce']

        for _ in range(2):  # the second step is where an unused or twice used parameter would be found out
            wrapped.zero_grad()
            loss(wrapped, slice(2 * get_rank(), 2 * get_rank() + 2)).backward()
        loss(alone, slice(0, 4)).backward()
        for (name, ours), expected in zip(model.named_parameters(), alone.parameters()):
            if expected.requires_grad:
                torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-4, atol=1e-7, msg=name)
            else:
                assert ours.grad is None
        results.append({name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad})
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=1e-5, atol=1e-8, msg=name)


def every_method_synchronises(folder):
    """No method has a parameter that a step leaves without a gradient, or uses in a way that DDP cannot follow."""
    start(runs.config(folder))
    for method, backbone in ADAPTED:
        if str(METHODS[method][0]['type']).startswith('mmparax.') and not method.startswith('adaroute-'):
            torch.manual_seed(3)
            model = build_backbone(method, backbone, with_cp=True, **FEW_BLOCKS[backbone])
            if not any(parameter.requires_grad for parameter in model.parameters()):  # a frozen ViT
                continue
            wrapped = MMDistributedDataParallel(model, device_ids=None, broadcast_buffers=False)
            for _ in range(2):
                wrapped.zero_grad()
                sum(out.square().mean() for out in wrapped(images(backbone, seed=get_rank()))).backward()
            gradients = all_gather_object(
                {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad})
            assert not runs.same(*gradients), (method, backbone)


def a_resumed_run_is_the_undisturbed_one(folder):
    """With dropout and drop path, workers, SyncBN that became BN, and validation."""
    options = dict(workers=1, norm='SyncBN', hooks=[dict(type='mmparax.EMAHook', momentum=0.3)])
    for name, iterations, resume in (('one', 6, False), ('two', 3, False), ('two', 6, True)):
        runner = runs.build(start(runs.config(folder / name, iterations=iterations, **options)), resume)
        assert isinstance(runner.model, MMDistributedDataParallel) and not runner.model.find_unused_parameters
        runner.train()
        unlock_folder(folder / name)
    first, second = runs.saved(folder / 'one'), runs.saved(folder / 'two')
    assert not runs.same(first['state_dict'], second['state_dict'])
    assert not runs.same(first['ema_state_dict'], second['ema_state_dict'])
    states = [state['generators']['torch'] for state in first['resume_state']]
    assert len(states) == 2 and all(
        torch.equal(state, other['generators']['torch']) for state, other in zip(states, second['resume_state']))
    statistics = all_gather_object({name: value for name, value in runner.model.module.named_buffers() if 'running' in name})
    assert statistics[0] and all(torch.equal(value, statistics[1][name]) for name, value in statistics[0].items())
    weights = all_gather_object({name: value.detach() for name, value in runner.model.module.named_parameters()})
    assert not runs.same(*weights)


def processes_that_start_elsewhere_are_refused(folder):
    """As on two machines whose work dirs are not the same folder: one finds a checkpoint there, the other does not."""
    runner = runs.build(start(runs.config(folder / 'run', iterations=3)))
    runner.train()
    checkpoint = runner.work_dir + '/iter_3.pth'
    for first, expected in ((dict(resume=True), 'process 0 starts at iteration 3, and process 1 at iteration 0: they would'),
                            (dict(load_from=checkpoint), 'process 0 starts at iteration 0, and process 1 with other weights: ')):
        unlock_folder(folder / 'run')
        before = (folder / 'run' / 'last_checkpoint').read_text()
        try:
            runs.build(start(runs.config(folder / 'run', iterations=6)), **(first if get_rank() == 0 else {})).train()
        except InputError as error:
            assert expected in str(error) and 'put the work dir on a file system that they share' in str(error), error
        else:
            raise AssertionError('trained')
        assert (folder / 'run' / 'last_checkpoint').read_text() == before and runs.saved(folder / 'run')['meta']['iter'] == 3


def one_process_of_a_machine_downloads(folder):
    """The others wait for the file."""
    downloads = []
    weights = build_backbone('frozen', **runs.SHALLOW['swin']).state_dict()

    def download(url, target, **_):
        time.sleep(0.7)
        downloads.append(url)
        torch.save(weights, target)

    torch.hub.set_dir(str(folder / 'hub'))
    torch.hub.download_url_to_file = download
    cfg = start(runs.config(folder / 'late', iterations=1, base_checkpoint='https://example.org/base.pth'))
    runs.build(cfg).train()
    assert all_gather_object(len(downloads)) == [1, 0]


def every_task_trains_and_evaluates(folder):
    """With recomputed activations; the processes end with the same weights and the metrics of all images."""
    if get_rank() == 0:
        write_scenes(folder / 'scenes', 8, 3, size=(96, 96), progress=False)
    barrier()
    for task, backbone in CELLS:
        adapted = backbone_config(task, backbone, allow_random_base=True, drop_path_rate=0.2, with_cp=True)
        cfg = start(task_config(task, folder / 'scenes', folder / task, adapted, iterations=2))
        if task == 'detection':  # so early nothing would be found
            cfg.model.test_cfg.rcnn.score_thr = 0.
        init_default_scope(cfg.default_scope)
        runner = Runner.from_cfg(cfg)
        assert isinstance(runner.model, MMDistributedDataParallel) and not runner.model.find_unused_parameters
        runner.train()
        unlock_folder(folder / task)
        weights = all_gather_object({name: value.detach() for name, value in runner.model.module.named_parameters()})
        assert not runs.same(*weights)
        metrics = {
            name[len('val/'):]: scalar.current() for name, scalar in runner.message_hub.log_scalars.items()
            if name.startswith('val/') and not name.endswith('time')
        }
        columns = all_gather_object(select_paper_metrics(metrics))
        assert columns[0] == columns[1] and None not in columns[0].values() and list(columns[0]) == COLUMNS[task]


def main(folder):
    torch.set_num_threads(1)
    init_default_scope('mmseg')
    for check in (gradients_are_those_of_one_process, every_method_synchronises, a_resumed_run_is_the_undisturbed_one,
                  processes_that_start_elsewhere_are_refused, one_process_of_a_machine_downloads,
                  every_task_trains_and_evaluates):
        text = 'ok'
        try:
            check(folder / check.__name__)
        except BaseException:
            text = traceback.format_exc()
        (folder / f'{check.__name__}.{get_rank()}.txt').write_text(text)
        if text != 'ok':  # the other process may wait for ever: both end
            sys.exit(text)


if __name__ == '__main__':
    main(Path(sys.argv[1]))
