"""One image through every task: what is printed and what is drawn."""
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from helpers.cases import FEW_BLOCKS, TINY_SWIN
from helpers.tasks import TASKS, config
from mmparax.datasets.synthetic.writers import write_scenes

DEMO = Path(__file__).parents[2] / 'demo' / 'image_demo.py'
SWIN = dict(type='mmparax.AdaptedSwin', adapter=dict(type='mmparax.AdaRoute', hidden_dim=4), allow_random_base=True,
            **{**TINY_SWIN, **FEW_BLOCKS['swin']})
ONE_OUTPUT = dict(out_indices=(3, ), pad_small_map=True)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A config and a checkpoint of each task, and images."""
    path = tmp_path_factory.mktemp('demo')
    write_scenes(path / 'scenes', 2, 1, size=(64, 96), progress=False)
    for task in TASKS:
        cfg = config(task, path / 'scenes', path / task, {**SWIN, **(ONE_OUTPUT if task == 'classification' else {})})
        cfg.dump(path / f'{task}.py')
        init_default_scope(cfg.default_scope)
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=cfg.train_dataloader.dataset.metainfo.to_dict())),
                   path / f'{task}.pth')
    Image.open(next((path / 'scenes' / 'images').rglob('*.jpg'))).save(path / 'scene.png')
    return path


def demo(*arguments):
    """Run the script in this process; return what it exits with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', ['image_demo.py', *map(str, arguments)])
        try:
            runpy.run_path(str(DEMO), run_name='__main__')
        except SystemExit as stopped:
            return stopped.code


EXPECTED = {
    'segmentation': r'│ (digit \d|wood|brick|grass|water|sand) +│ +\d+\.\d% │',
    'detection': r'│ digit \d +│ +0\.\d\d │ +\d+, \d+, \d+, \d+ │',
    'panoptic': r'│ (digit \d|wood|brick|grass|water|sand|\(none\)) +│ +\d+\.\d% │',
    'classification': r'│ (digit \d|wood|brick|grass|water|sand) +│ +0\.\d\d\d │'
}


@pytest.mark.parametrize('task', TASKS)
def test_prints_and_draws(task, folder, capsys):
    picture = folder / 'pictures' / f'{task}.png'
    assert demo(folder / f'{task}.py', folder / f'{task}.pth', folder / 'scene.png', '--out', picture, '--score-thr', '0.05',
                '--device', 'cpu') is None
    text = capsys.readouterr().out
    rows = re.findall(EXPECTED[task], text)
    assert rows, text
    assert 'scene.png, 96x64' in text and str(picture) in text
    drawn = np.asarray(Image.open(picture).convert('RGB'))
    plain = np.asarray(Image.open(folder / 'scene.png').resize(drawn.shape[1::-1], Image.BICUBIC))
    assert drawn.shape == (512, 768, 3) and np.abs(drawn.astype(int) - plain).mean() > 1
    if task in ('segmentation', 'panoptic'):
        assert sum(float(share) for share in re.findall(r'([\d.]+)% │', text)) == pytest.approx(100, abs=0.05 * len(rows) + 0.1)
    if task == 'classification':
        assert len(rows) == 5


@pytest.mark.parametrize('task', ['detection', 'panoptic'])
def test_a_picture_without_anything_found(task, folder, capsys):
    """Nothing is drawn, and nothing fails."""
    picture = folder / 'empty.png'
    options = ['model.test_cfg.rcnn.score_thr=2.', 'model.test_cfg.panoptic.stuff_area_limit=100000']
    assert demo(folder / f'{task}.py', folder / f'{task}.pth', folder / 'scene.png', '--out', picture, '--score-thr', '2',
                '--device', 'cpu', '--cfg-options', *options[:1 + (task == 'panoptic')]) is None
    text = capsys.readouterr().out
    assert 'no object with a score of 2.0 or more' in text if task == 'detection' else re.search(r'\(none\) +│ +100.0%', text)
    drawn = np.asarray(Image.open(picture))
    plain = np.asarray(Image.open(folder / 'scene.png').resize(drawn.shape[1::-1], Image.BICUBIC))
    assert np.abs(drawn.astype(int) - plain).mean() < 3


def test_images_of_data_sets_without_files_are_in_rgb_order(folder, capsys):
    """CIFAR and SVHN give RGB arrays: their pipelines load nothing, and their models swap nothing."""
    loads = folder / 'classification.py'
    demo(loads, folder / 'classification.pth', folder / 'scene.png', '--out', folder / 'first.png', '--device', 'cpu')
    arrays = Config.fromfile(loads)
    arrays.model.data_preprocessor.to_rgb = False
    arrays.test_dataloader.dataset.pipeline.pop(0)
    arrays.dump(folder / 'arrays.py')
    first = capsys.readouterr().out
    demo(folder / 'arrays.py', folder / 'classification.pth', folder / 'scene.png', '--out', folder / 'first.png', '--device',
         'cpu')
    rows = [re.findall(r'│ .+ │ +0\.\d{3} │', text) for text in (first, capsys.readouterr().out)]
    assert rows[0] == rows[1] and len(rows[0]) == 5


ERRORS = {
    'no image': (('segmentation.py', 'segmentation.pth', 'absent.png'), "the image 'absent.png' does not exist"),
    'no image at all': (('segmentation.py', 'segmentation.pth', 'segmentation.py'),
                        "'segmentation.py' cannot be read as an image"),
    'a folder': (('segmentation.py', 'segmentation.pth', 'scenes'), "'scenes' cannot be read as an image"),
    'no checkpoint': (('segmentation.py', 'absent.pth', 'scene.png'), "the checkpoint 'absent.pth' does not exist"),
    'no config': (('absent.py', 'segmentation.pth', 'scene.png'), "the config 'absent.py' does not exist"),
    'no such place': (('segmentation.py', 'segmentation.pth', 'scene.png', '--out', 'scene.png/x.png'),
                      "'scene.png' cannot be written to"),
    'no such format': (('segmentation.py', 'segmentation.pth', 'scene.png', '--out', 'wrong.txt'),
                       "--out='wrong.txt' is not allowed: it must be a file whose name ends in .jpg, .jpeg"),
    'no format': (('segmentation.py', 'segmentation.pth', 'scene.png', '--out', 'wrong'), "--out='wrong' is not allowed"),
    'one file for two': (('segmentation.py', 'segmentation.pth', 'scene.png', 'scene.png', '--out', 'wrong.png'),
                         "--out='wrong.png' is not allowed: it is one file, and there are 2 images. Give --out-dir."),
    'no such folder': (('segmentation.py', 'segmentation.pth', 'scene.png', '--out-dir', 'scene.png'),
                       "the folder 'scene.png' cannot be written to"),
    'of another task': (('detection.py', 'segmentation.pth', 'scene.png'), 'does not fit the head of MaskRCNN'),
    'no pipeline': (('bare.py', 'segmentation.pth', 'scene.png'), 'bare.py\' has no test_dataloader.dataset.pipeline'),
}


@pytest.mark.parametrize('case', ERRORS)
def test_wrong_input_is_one_sentence(case, folder, monkeypatch):
    monkeypatch.chdir(folder)
    bare = Config.fromfile('segmentation.py')
    for name in ('test_dataloader', 'val_dataloader', 'test_pipeline'):
        bare.pop(name)
    bare.dump('bare.py')
    arguments, message = ERRORS[case]
    given = () if {'--out', '--out-dir'}.intersection(arguments) else ('--out', 'wrong.png')
    code = demo(*arguments, '--device', 'cpu', *given)
    assert isinstance(code, str) and message in code and len(code.splitlines()) == 1
    assert not Path('wrong.png').exists() and not Path('wrong.txt').exists()


def test_several_images_have_a_picture_each(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    images = sorted(str(path.relative_to(folder)) for path in (folder / 'scenes' / 'images').rglob('*.jpg'))
    (folder / 'other').mkdir()
    twin = folder / 'other' / Path(images[0]).name
    Image.open(images[0]).save(twin)
    assert demo('segmentation.py', 'segmentation.pth', *images, twin.relative_to(folder), '--device', 'cpu') is None
    assert {path.name for path in (folder / 'predictions').iterdir()
            } == {'scene_00001.png', *(f'{split}_scene_00000.png' for split in ('training', 'validation', 'other'))}
    assert capsys.readouterr().out.count('Picture: ') == len(images) + 1


def test_the_order_of_openmmlab_is_understood(folder, capsys):
    picture = folder / 'order.png'
    assert demo(folder / 'scene.png', folder / 'segmentation.py', folder / 'segmentation.pth', '--out', picture, '--device',
                'cpu') is None
    assert picture.is_file() and 'Warning: read as IMAGE CONFIG CHECKPOINT' in capsys.readouterr().err
