"""Every task of the paper trains, evaluates and resumes on synthetic scenes, with activations kept or recomputed."""
import numpy as np
import pytest
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.runner import Runner

from helpers.cases import BACKBONES
from helpers.runs import same, saved
from helpers.tasks import TASKS, backbone_config, config
from mmparax.datasets.synthetic.writers import write_scenes
from mmparax.inference.metrics import select_paper_metrics
from mmparax.utils.locks import unlock_folder

# Each task on another family, so that each family trains with a real head.
CELLS = [('segmentation', 'swin'), ('detection', 'convnext'), ('panoptic', 'mit'), ('classification', 'vit')]
COLUMNS = {
    'segmentation': ['mIoU'], 'detection': ['AP^b', 'AP^b_50', 'AP^b_75', 'AP^m', 'AP^m_50', 'AP^m_75'],
    'panoptic': ['PQ', 'SQ', 'RQ'], 'classification': ['top-1']
}
ITERATIONS = 6


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp('tasks') / 'scenes'
    write_scenes(root, 8, 2, size=(96, 96), progress=False)
    return root


@pytest.fixture(autouse=True)
def scope_of_its_own():
    yield
    DefaultScope._instance_dict.clear()


def run(task, backbone, scenes, work_dir, iterations, resume=False, **options):
    """Train, evaluating at the end; return the losses and the metrics."""
    backbone = backbone_config(task, backbone, allow_random_base=True, drop_path_rate=0.2, **options)
    cfg = config(task, scenes, work_dir, backbone, iterations=iterations)
    cfg.train_dataloader.batch_size = 4
    cfg.optim_wrapper.optimizer.lr = 5e-3
    if task == 'detection':  # so early nothing would be found
        cfg.model.test_cfg.rcnn.score_thr = 0.
    cfg.resume = resume
    init_default_scope(cfg.default_scope)
    runner = Runner.from_cfg(cfg)
    runner.train()
    unlock_folder(work_dir)
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    metrics = {
        name[len('val/'):]: scalar.current() for name, scalar in runner.message_hub.log_scalars.items()
        if name.startswith('val/') and not name.endswith('time')
    }
    return losses, metrics


@pytest.mark.parametrize('task, backbone', CELLS)
def test_trains_evaluates_and_resumes(task, backbone, scenes, tmp_path):
    losses, metrics = run(task, backbone, scenes, tmp_path / 'whole', ITERATIONS)
    assert len(losses) == ITERATIONS and np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    columns = select_paper_metrics(metrics)
    assert list(columns) == COLUMNS[task]
    assert all(value is not None and 0 <= value <= 100 for value in columns.values())
    # The same in two parts, with the activations recomputed.
    half = ITERATIONS // 2
    run(task, backbone, scenes, tmp_path / 'parts', half, with_cp=True)
    again, resumed = run(task, backbone, scenes, tmp_path / 'parts', ITERATIONS, resume=True, with_cp=True)
    assert np.allclose(again[-half:], losses[half:], rtol=1e-5) and resumed == pytest.approx(metrics, nan_ok=True)
    first, second = saved(tmp_path / 'whole'), saved(tmp_path / 'parts')
    assert not same(first['state_dict'], second['state_dict'])


def test_every_task_is_here():
    assert [task for task, _ in CELLS] == list(TASKS) and {backbone for _, backbone in CELLS} == set(BACKBONES)
