"""An error of a data pipeline in the middle of a run is one sentence with the file."""
import pickle

import numpy as np
import pytest
from mmengine.dataset import Compose
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from PIL import Image

from helpers.mask_data import HEIGHT, PIPELINE, WIDTH, configure, paint, write
from mmparax.checks.pipeline_errors import NamedPipeline, name_pipeline_errors
from mmparax.errors import DataError


def load_all(cfg, loader='train_dataloader', workers=0):
    """Read every batch of a dataloader whose errors are named."""
    cfg[loader].num_workers = workers
    with DATASETS.switch_scope_and_registry('mmseg'):
        built = Runner.build_dataloader(cfg[loader], seed=0)
    name_pipeline_errors(built.dataset, f'{loader}.dataset', [255] if loader.startswith('train') else None)
    return list(built)


def fail(cfg, **options):
    with pytest.raises(DataError) as raised:
        load_all(cfg, **options)
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


def spoil_image(folder, part):
    (folder / f'images/{part}/2.jpg').write_bytes(b'')


def cut_mask(folder, part):
    path = folder / f'masks/{part}/2.png'
    path.write_bytes(path.read_bytes()[:55])  # in the middle of the pixels


def drop_mask(folder, part):
    (folder / f'masks/{part}/2.png').unlink()


def colour_mask(folder, part):
    path = folder / f'masks/{part}/2.png'
    Image.open(path).convert('RGB').save(path)


def halve_mask(folder, part):
    path = folder / f'masks/{part}/2.png'
    Image.open(path).resize((WIDTH // 2, HEIGHT // 2)).save(path)


BROKEN = {
    'an empty image': (spoil_image,
                       "the image '{}/images/{}/2.jpg' cannot be read: it is empty (0 bytes). Mend or remove the file."),
    'a cut mask': (cut_mask, "the mask '{}/masks/{}/2.png' cannot be read: it ends too early (truncated). Mend or remove"),
    'a missing mask': (drop_mask, "the mask '{}/masks/{}/2.png' cannot be read: it does not exist. Mend or remove"),
    'a mask of another size': (halve_mask, "the mask '{}/masks/{}/2.png' gives (8, 12) (height, width) where its image '"),
}


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('case', BROKEN)
def test_the_file_is_named_in_training(case, workers, tmp_path):
    spoil, text = BROKEN[case]
    spoil(write(tmp_path), 'train')
    found = fail(configure(tmp_path), workers=workers)
    assert found.startswith('train_dataloader.dataset: ' + text.format(tmp_path, 'train')), found
    assert found.endswith('tools/doctor.py CONFIG --scan all finds all such files.')


@pytest.mark.parametrize('case', BROKEN)
def test_the_file_is_named_in_validation(case, tmp_path):
    spoil, text = BROKEN[case]
    spoil(write(tmp_path), 'val')
    cfg = configure(tmp_path)
    cfg.val_dataloader.dataset.test_mode = True
    found = fail(cfg, loader='val_dataloader')
    assert found.startswith('val_dataloader.dataset: ' + text.format(tmp_path, 'val')), found


def test_a_value_that_is_no_class_is_named_before_a_loss_sees_it(tmp_path):
    cfg = configure(write(tmp_path, values=(0, 1, 2, 255)))
    assert len(load_all(cfg)) == 3
    Image.fromarray(paint(0, (0, 1, 11))[1].astype(np.uint8)).save(tmp_path / 'masks/train/4.png')
    found = fail(cfg, workers=1)
    assert f"the mask '{tmp_path}/masks/train/4.png' gives the class number(s) 11, and the 3 classes are 0 to 2" in found


def test_a_transform_that_fails_is_named_with_its_image(tmp_path):
    cfg = configure(write(tmp_path))
    cfg.train_dataloader.dataset.pipeline.insert(1, dict(type='LoadDepthAnnotation'))
    found = fail(cfg)
    assert found == (f"train_dataloader.dataset: the transform LoadDepthAnnotation failed on '{tmp_path}/images/train/0.jpg' "
                     "(KeyError: 'depth_map_path').")


class RefuseAll:
    """A transform that finds no image good enough."""

    def __call__(self, results):
        return None


@pytest.mark.parametrize('test_mode, count', [(False, 4), (True, 1)])
def test_samples_that_are_refused_in_a_row(test_mode, count, tmp_path):
    cfg = configure(write(tmp_path), max_refetch=3, test_mode=test_mode)
    with DATASETS.switch_scope_and_registry('mmseg'):
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
    dataset.pipeline.transforms.append(RefuseAll())
    name_pipeline_errors(dataset, 'train_dataloader.dataset')
    with pytest.raises(DataError, match=rf"{count} sample\(s\) in a row were refused by .*\.jpg', by RefuseAll: no image"):
        dataset[0]


def test_wrappers_of_any_kind_are_looked_into_and_nothing_else_changes(tmp_path):
    cfg = configure(write(tmp_path))
    inner = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[inner,
                                                                                                                    inner]))
    with DATASETS.switch_scope_and_registry('mmseg'):
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
    before = dataset[0]['inputs']
    name_pipeline_errors(dataset, 'train_dataloader.dataset', [255])
    parts = dataset.dataset.datasets
    assert all(type(part.pipeline) is NamedPipeline and isinstance(part.pipeline, Compose) for part in parts)
    assert parts[1].pipeline.place == 'train_dataloader.dataset, part 2 of 2'
    assert (pickle.loads(pickle.dumps(dataset))[0]['inputs'] == before).all()


def test_the_sentence_is_kept_when_pytorch_makes_the_error_of_a_worker_anew():
    text = 'train_dataloader.dataset: the image is gone.'
    made = DataError('Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File "x"\n'
                     f'ValueError: y\n\nThe above exception was ...\n\nmmparax.errors.DataError: {text}\n')
    assert str(made) == str(DataError(text)) == text


@pytest.mark.parametrize('workers', [0, 1])
def test_a_run_ends_with_the_sentence(workers, tmp_path):
    """PEFTHook names the errors of the run's data sets, whatever the checks before it looked at."""
    from helpers.cases import FEW_BLOCKS, TINY_SWIN
    from helpers.tasks import config
    from mmparax.cli import build_runner
    from mmparax.datasets.synthetic.writers import write_scenes
    write_scenes(tmp_path / 'scenes', 2, 1, size=(64, 64), progress=False)
    broken = next((tmp_path / 'scenes/images/training').iterdir())
    backbone = dict(type='mmparax.AdaptedSwin', adapter=dict(type='mmparax.AdaRoute', hidden_dim=4), allow_random_base=True,
                    **{**TINY_SWIN, **FEW_BLOCKS['swin']})
    cfg = config('segmentation', tmp_path / 'scenes', tmp_path / 'work', backbone)
    cfg.train_dataloader.num_workers, cfg.launcher = workers, 'none'
    runner = build_runner(cfg)
    broken.write_bytes(b'')
    with pytest.raises(DataError, match=rf"^train_dataloader.dataset: the image '{broken}' cannot be read: it is empty"):
        runner.train()


@pytest.mark.parametrize('test_mode', [False, True])
def test_a_validation_that_resizes_keeps_its_masks(test_mode, tmp_path):
    """mmsegmentation loads masks behind the resizing; its data sets have test_mode=False in validation, too."""
    cfg = configure(write(tmp_path))
    resized = [PIPELINE[0], dict(type='Resize', scale=(WIDTH // 2, HEIGHT // 2), keep_ratio=True), *PIPELINE[1:]]
    cfg.val_dataloader.dataset.update(pipeline=resized, test_mode=test_mode)
    samples = [sample for batch in load_all(cfg, loader='val_dataloader') for sample in batch['data_samples']]
    assert len(samples) == 3 and all(sample.gt_sem_seg.shape == (HEIGHT, WIDTH) for sample in samples)
    halve_mask(tmp_path, 'val')  # as large as the resized image, and still of another size than its own
    assert "2.png' gives (8, 12) (height, width) where its image" in fail(cfg, loader='val_dataloader')
