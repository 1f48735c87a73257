"""Every method on every family in every task: one process saves adapter files, another loads them and says the same."""
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.registry import MODELS, DefaultScope, init_default_scope

import mmparax
from helpers.cases import BACKBONES, CASES, FEW_BLOCKS, METHODS, build
from helpers.runs import in_child
from helpers.tasks import SIZE, TASKS, backbone_config

SHIPPED = [method for method in METHODS if not method.startswith('toy')]
WHOLE = [(method, backbone, task) for method, backbone in CASES if method in SHIPPED for task in TASKS]
# Of every run of the tests: each method once, then each family in each task.
QUICK = [case for case in WHOLE if case[1:] == ('swin', 'segmentation') and not case[0].startswith('adaroute-')]
QUICK += [case for case in WHOLE if case[0] == 'adaroute' and case not in QUICK]


@pytest.fixture(autouse=True)
def scope_of_its_own():
    yield
    DefaultScope._instance_dict.clear()


def make(case, folder):
    """The model of a case, in evaluation mode, on the base checkpoint of its family and task."""
    method, backbone, task = case
    maker, scope, *_ = TASKS[task]
    init_default_scope(scope)
    base = dict(base_checkpoint=str(folder / f'{backbone}.pth'))
    return MODELS.build(maker(backbone_config(task, backbone, method, **base))).eval()


def flat(value):
    """The tensors in nested outputs."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for part in value for tensor in flat(part)] if isinstance(value, (list, tuple)) else []


@torch.no_grad()
def says(model, task):
    image = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))
    sample = DetDataSample(metainfo=dict(img_shape=(SIZE, SIZE), scale_factor=(1., 1.)))
    found = flat(model.extract_feat(image)) + flat(model(image, [sample], mode='tensor'))
    return found + (flat(model.semantic_head(model.extract_feat(image))) if task == 'panoptic' else [])


@torch.no_grad()
def save_all(cases, folder):
    """Fill trainable parameters with numbers, as training would, and save file and outputs."""
    for backbone in BACKBONES:
        torch.save(build('frozen', backbone, **FEW_BLOCKS[backbone]).state_dict(), folder / f'{backbone}.pth')
    for case in cases:
        model = make(case, folder)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith('running_mean'):
                buffer.normal_()
        mmparax.save_adapter(model, folder / f'{"_".join(case)}.safetensors')
        torch.save(says(model, case[2]), folder / f'{"_".join(case)}.pth')


def saved_by_another_process(cases, folder):
    assert in_child(save_all, cases, folder) == 0
    return folder


@pytest.fixture(scope='module')
def quick(tmp_path_factory):
    return saved_by_another_process(QUICK, tmp_path_factory.mktemp('quick'))


def check(case, folder):
    model = make(case, folder)
    name, expected = '_'.join(case), torch.load(folder / f'{"_".join(case)}.pth')
    before = says(model, case[2])
    about = mmparax.load_adapter(model, folder / f'{name}.safetensors')
    found = says(model, case[2])
    assert len(found) == len(expected) > 0 and all(torch.equal(one, other) for one, other in zip(found, expected))
    assert not all(torch.equal(one, other) for one, other in zip(before, expected))  # it is the file that made it so
    assert about['backbones']['backbone']['adapter']['type'] == METHODS[case[0]][0]['type'].partition('.')[2]


@pytest.mark.parametrize('case', QUICK, ids='-'.join)
def test_a_file_gives_the_model_that_was_saved(case, quick):
    check(case, quick)


@pytest.mark.full
@pytest.mark.parametrize('backbone', BACKBONES)
def test_every_method_in_every_task(backbone, tmp_path):
    cases = [case for case in WHOLE if case[1] == backbone]
    for case in cases:
        check(case, saved_by_another_process(cases, tmp_path) if case == cases[0] else tmp_path)


def test_the_tables_are_whole():
    assert {case[0] for case in WHOLE} == set(SHIPPED) and {case[1:] for case in QUICK} >= {(backbone, task)
                                                                                            for backbone in BACKBONES
                                                                                            for task in TASKS}
    kinds = {METHODS[case[0]][0]['type'] for case in QUICK}
    assert kinds == {METHODS[method][0]['type'] for method in SHIPPED} and len(np.unique(QUICK, axis=0)) == len(QUICK)
