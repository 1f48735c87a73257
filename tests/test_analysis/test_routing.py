"""Routing: gates set by hand and in closed form, sums against direct float64, continuing, the tool on every task."""
import copy
import json
import math
import pickle
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import nn

from helpers.cases import TINY_SWIN, perturb
from helpers.routing import Net, set_gates
from helpers.tasks import config as task_config
from mmparax.analysis.routing.measure import RoutingMeasurement, batch_by_size, find_labels, spread_indices
from mmparax.analysis.routing.pictures import (
    draw_class_layers,
    draw_classes,
    draw_entropy,
    draw_top_images,
    draw_usage,
    explain_class,
    find_most_dependent,
)
from mmparax.analysis.routing.result import build_result, format_routing_table, format_top_images_csv
from mmparax.checks.gates import GateSums, attach_readers, find_dead_everywhere, find_routed_adapters, list_warnings
from mmparax.datasets.synthetic.writers import write_scenes
from mmparax.errors import InputError, ParameterError

TOOL = Path(__file__).parents[2] / 'tools' / 'analysis_tools' / 'routing.py'
IMAGES, CLASSES = 11, 3


class Data:
    """Random images, each of one class; some are smaller."""
    metainfo = dict(classes=('a', 'b', 'c'))

    def __init__(self, stop_at=None):
        self.stop_at, self.read = stop_at, []

    def __len__(self):
        return IMAGES

    def __getitem__(self, number):
        if number == self.stop_at:
            raise KeyboardInterrupt
        self.read.append(number)
        side = 32 if number in (3, 4, 8) else 64
        generator = torch.Generator().manual_seed(number)
        image = torch.randint(256, (3, 1, 1), generator=generator).expand(3, side, side)
        image = image + torch.randint(-40, 40, image.shape, generator=generator)
        label = BaseDataElement(gt_label=torch.tensor([number % 2]))
        return dict(inputs=image.clamp(0, 255).to(torch.uint8), data_samples=label)

    def get_data_info(self, number):
        return dict(img_path=f'folder/{number}.png')


def build_dependent(**options):
    """A model whose gates depend on the image."""
    model = Net(**options)
    for number, adapter in enumerate(find_routed_adapters(model)):
        perturb(adapter.router, seed=number)
        adapter.router.gates.weight.data *= 3
    return model


def measure(model, folder, data=None, batch_size=4, **options):
    run = RoutingMeasurement(model, data or Data(), folder, {}, **options)
    run.run(batch_size)
    return run


def list_groups(run):
    return [(adapter, group, found) for adapter, groups in zip(run.adapters, run.totals.gates.compute_statistics())
            for group, found in groups.items()]


# ---- statistics ----


def test_gates_set_by_hand(tmp_path):
    """Softmax of log p is p: usage, entropies, spread and warnings are known."""
    model = Net()
    shares = {2: [0.25, 0.75], 4: [0.5, 0.25, 0.25 - 1e-4, 1e-4]}
    set_gates(model, lambda experts: np.log(shares[experts]))
    run = measure(model, tmp_path)
    assert [(adapter.name, adapter.num_experts) for adapter in run.adapters][:2] == [('stage1/block01/after_token_mixer', 2),
                                                                                     ('stage1/block01/after_channel_mixer', 2)]
    assert run.adapters[8].name == 'stage3/block01/after_token_mixer' and run.adapters[8].num_experts == 4
    assert run.adapters[0].groups == ('down', 'up', 'kernels.0', 'kernels.1', 'kernels.2')
    for adapter, _, found in list_groups(run):
        p = np.array(shares[adapter.num_experts])
        assert found.usage == pytest.approx(p, rel=1e-5) and found.mean_gate == pytest.approx(p, rel=1e-5)
        for value in (found.entropy_of_mean, found.mean_entropy):
            assert value == pytest.approx(-(p * np.log(p)).sum(), rel=1e-5)
        assert found.normalize(found.mean_entropy) == pytest.approx(-(p * np.log(p)).sum() / math.log(len(p)), rel=1e-5)
        assert found.dependence == pytest.approx(0, abs=1e-12) and found.std == pytest.approx(0, abs=1e-7)
        assert found.largest.tolist() == (p == p.max()).tolist()
        assert found.dead_experts == ([4] if len(p) == 4 else []) and found.is_constant
    dead, fixed = list_warnings(run.adapters, run.totals.gates.compute_statistics())
    assert 'no image: 40 (stage3/block01/after_token_mixer/down/expert4,' in dead
    assert 'in every adapter that shares them: 5 (stage3/down/expert4, stage3/up/expert4,' in dead
    assert '100 of 100 groups' in fixed


def test_sigmoid_gates_are_divided_by_their_sum(tmp_path):
    model = Net('adaroute-sigmoid')
    gates = {2: np.array([0.2, 0.6]), 4: np.array([0.1, 0.1, 0.3, 0.5])}
    set_gates(model, lambda experts: np.log(gates[experts] / (1 - gates[experts])))
    for adapter, _, found in list_groups(measure(model, tmp_path)):
        own = gates[adapter.num_experts]
        assert adapter.activation == 'sigmoid'
        assert found.mean_gate == pytest.approx(own, rel=1e-5) and found.usage == pytest.approx(own / own.sum(), rel=1e-5)


@pytest.mark.parametrize(
    'gates, dependence, variation, largest',
    [
        ([[1., 0.], [0., 1.]], math.log(2), 1., [0.5, 0.5]),  # each image its own expert
        ([[0.5, 0.5], [0.5, 0.5]], 0., 0., [0.5, 0.5]),  # ties are split
        ([[0.9, 0.1], [0.9, 0.1]], 0., 0., [1., 0.]),
    ])
def test_the_input_decides_or_does_not(gates, dependence, variation, largest):
    adapters = [SimpleNamespace(name='stage1/block01/x', center='stage1', groups=('down', ), num_experts=2)]
    sums = GateSums(adapters)
    sums.add({0: torch.tensor([gates])})
    found = sums.compute_statistics()[0]['down']
    assert found.dependence == pytest.approx(dependence, abs=1e-12) and found.variation == pytest.approx(variation, abs=1e-6)
    assert found.largest.tolist() == largest and found.is_constant == (variation == 0) and found.dead_experts == []
    assert not find_dead_everywhere(adapters, sums.compute_statistics())


def test_sums_of_several_processes_add_up():
    adapters = [
        SimpleNamespace(name=f'stage1/block0{experts}/x', center=f'stage{experts}', groups=('down', 'up'), num_experts=experts)
        for experts in (2, 3)
    ]
    batch = [{number: torch.rand(2, 4, adapter.num_experts) for number, adapter in enumerate(adapters)} for _ in range(2)]
    whole, first, second, none = (GateSums(adapters) for _ in range(4))
    for sums, parts in ((whole, batch), (first, batch[:1]), (second, batch[1:])):
        for gates in parts:
            sums.add(gates)
    none.load_flat(first.flatten('cpu') + second.flatten('cpu') + none.flatten('cpu'))
    assert none.images == whole.images == 8
    for ours, expected in zip(none.compute_statistics(), whole.compute_statistics()):
        assert all(ours[group].as_dict() == expected[group].as_dict() for group in ('down', 'up'))


@pytest.mark.parametrize('batch_size', [pytest.param(1, marks=pytest.mark.full), 4])
@pytest.mark.parametrize('method', ['adaroute', 'adaroute-sigmoid'])
def test_sums_equal_a_direct_computation(method, batch_size, tmp_path):
    """Every number from the gates of single images, in float64; batches do not matter, nor does the size of other images."""
    model, data = build_dependent(method=method), Data()
    run = measure(model, tmp_path, batch_size=batch_size)
    assert not any(adapter.router._forward_hooks for adapter in run.adapters)
    gates = {number: [] for number in range(len(run.adapters))}
    handles = attach_readers(run.adapters, lambda number, values: gates[number].append(values[:, 0].double().numpy()))
    with torch.no_grad():
        for number in range(IMAGES):
            model.extract_feat(model.data_preprocessor(dict(inputs=[data[number]['inputs']]))['inputs'])
    for handle in handles:
        handle.remove()
    result, statistics = build_result(run), run.totals.gates.compute_statistics()
    close = dict(rel=1e-4, abs=1e-6)  # a batch of another size rounds otherwise in float32
    for number, adapter in enumerate(run.adapters):
        for column, group in enumerate(adapter.groups):
            x = np.stack(gates[number])[:, column]
            p, found = x / x.sum(1, keepdims=True), statistics[number][group]
            assert found.mean_gate == pytest.approx(x.mean(0), **close) and found.std == pytest.approx(x.std(0), **close)
            assert found.usage == pytest.approx(p.mean(0), **close)
            assert found.largest == pytest.approx((x == x.max(1, keepdims=True)).mean(0))
            assert found.mean_entropy == pytest.approx(-(p * np.log(p)).sum(1).mean(), **close)
            assert found.entropy_of_mean == pytest.approx(-(p.mean(0) * np.log(p.mean(0))).sum(), **close)
            assert found.variation == pytest.approx(math.sqrt(x.var(0).sum() / (x.mean(0)**2).sum()), **close)
            assert found.is_constant == (found.variation < 0.01)
            for expert, entries in enumerate(result['adapters'][number]['groups'][group]['top_images']):
                assert [gate for _, gate in entries] == pytest.approx(np.sort(x[:, expert])[::-1][:8], **close)
                assert [x[image, expert] for image, _ in entries] == pytest.approx([gate for _, gate in entries], **close)
    first = np.stack(gates[0])[:, 0] / np.stack(gates[0])[:, 0].sum(1, keepdims=True)
    other = [np.stack(gates[number])[:, 0] / np.stack(gates[number])[:, 0].sum(1, keepdims=True) for number in (1, 2, 3)]
    expected = np.mean([p[1::2].mean(0) - p.mean(0) for p in (first, *other)], 0)  # the four adapters of stage 1
    assert result['classes']['centers']['stage1']['down'][1] == pytest.approx(expected, **close)
    assert result['classes']['images'] == [6, 5, 0] and result['classes']['centers']['stage1']['down'][2] == [None, None]


def test_one_expert_is_no_choice(tmp_path):
    """Nothing is warned of, and everything is drawn."""
    run = measure(Net(dict(type='mmparax.AdaRoute', hidden_dim=4, layers_per_center=1, kernel_sizes=())), tmp_path)
    result = build_result(run)
    assert not result['warnings'] and result['summary']['groups_with_a_choice'] == 0
    assert result['adapters'][0]['groups']['down']['normalized']['mean_entropy'] is None
    assert [adapter['center'] for adapter in result['adapters']][:4] == ['stage1/center1'] * 2 + ['stage1/center2'] * 2
    for number, draw in enumerate((draw_usage, draw_entropy, draw_classes)):
        draw(result, tmp_path / f'{number}.png')
        assert (tmp_path / f'{number}.png').stat().st_size > 5000
    assert 'no choice' in format_routing_table(result)


@pytest.fixture
def drawn(monkeypatch):
    """The texts in pictures that were written."""
    texts = []

    def write_figure(path, figure):
        texts.append(' '.join(text.get_text() for text in figure.findobj(Text)))
        path.write_bytes(b'')

    monkeypatch.setattr('mmparax.analysis.routing.pictures.write_figure', write_figure)
    return texts


def test_pictures_that_would_say_nothing_say_so(tmp_path, drawn):
    """A class that is in every image cannot be compared with images without it."""

    def draw(labels):
        data = Data()
        data.__class__ = type(
            'Labelled', (Data, ), {
                '__getitem__': lambda self, number:
                {**Data.__getitem__(self, number), 'data_samples': BaseDataElement(gt_label=torch.tensor(labels(number)))}
            })
        result = build_result(measure(model, tmp_path / str(len(drawn)), data), ['a', 'b', 'c'])
        for name in 'abc':
            draw_class_layers(result, name, tmp_path / 'x.png')
        draw_classes(result, tmp_path / 'x.png')
        return result

    model = build_dependent()
    result = draw(lambda number: [0, 1] if number % 2 else [0])
    assert '"a" is in every one of the 11 images, so there are none without it to compare with.' in drawn[0]
    assert drawn[0].split('\n')[-1] and 'Usage of the experts in the 5 images with "b"' in drawn[1]
    assert 'None of the 11 images has "c".' in drawn[2]
    assert 'not shown, as in every image: 1 (a)' in drawn[3] and 'b (5)' in drawn[3] and 'a (11)' not in drawn[3]
    assert [bool(explain_class(result, name)) for name in 'abc'] == [True, False, True]
    draw(lambda number: [0, 2])
    assert 'Every class that occurs (2) is in every one of the 11 images' in drawn[7]
    single = build_result(
        measure(Net(dict(type='mmparax.AdaRoute', hidden_dim=4, layers_per_center=1, kernel_sizes=())), tmp_path))
    draw_top_images(single, single['adapters'][0]['name'], 'down', None, tmp_path / 'x.png')
    assert 'Every router has one expert' in drawn[8]


# ---- images ----


def test_what_is_interrupted_goes_on_and_ends_the_same(tmp_path):
    model = build_dependent()
    whole = measure(model, tmp_path / 'whole', batch_size=2)
    run = RoutingMeasurement(model, Data(stop_at=7), tmp_path / 'parts', {})
    with pytest.raises(KeyboardInterrupt):
        run.run(2, save_every=0.)
    data = Data()
    run = RoutingMeasurement(model, data, tmp_path / 'parts', {})
    assert 0 < run.num_seen < 7
    start = run.num_seen
    run.run(2)
    assert data.read == list(range(start, IMAGES)) and run.num_seen == IMAGES
    for name, values in whole.totals.to_arrays().items():
        assert np.array_equal(values, run.totals.to_arrays()[name]), name
    data = Data()
    again = RoutingMeasurement(model, data, tmp_path / 'parts', {})
    again.run()
    assert not data.read and build_result(again) == build_result(whole)


def test_a_state_of_something_else_or_damaged_is_not_used(tmp_path):
    model = Net()
    measure(model, tmp_path)
    assert RoutingMeasurement(model, Data(), tmp_path, {}).num_seen == IMAGES
    assert RoutingMeasurement(model, Data(), tmp_path, dict(checkpoint='another')).num_seen == 0
    assert RoutingMeasurement(model, Data(), tmp_path, {}, num_images=5).num_seen == 0
    (tmp_path / 'routing_state.npz').write_bytes(b'half')
    assert RoutingMeasurement(model, Data(), tmp_path, {}).num_seen == 0


def test_images_are_spread_and_only_those_of_one_size_are_put_together():
    assert spread_indices(10, 4) == [0, 2, 5, 7] and spread_indices(3, 5) == spread_indices(3, None) == [0, 1, 2]
    data = Data()
    grouped = [images for images, _ in batch_by_size(((number, data[number]) for number in range(IMAGES)), 2)]
    assert grouped == [[0, 1], [2], [3, 4], [5, 6], [7], [8], [9, 10]]


@pytest.mark.parametrize('sample, expected', [
    (dict(gt_label=torch.tensor([2, 0])), [0, 2]),
    (dict(gt_instances=InstanceData(labels=torch.tensor([1, 1, 0]))), [0, 1]),
    (dict(gt_sem_seg=PixelData(data=torch.tensor([[[2, 255], [1, 2]]]))), [1, 2]),
    (dict(gt_sem_seg=PixelData(sem_seg=torch.tensor([[[2, 255]]])), gt_instances=InstanceData(labels=torch.tensor([0]))), [0, 2]),
    ({}, []),
])
def test_classes_in_an_annotation_of_any_task(sample, expected):
    assert find_labels(BaseDataElement(**sample), CLASSES) == expected


def test_top_images_as_table_and_picture(tmp_path):
    run = measure(build_dependent(), tmp_path)
    result = build_result(run)
    lines = format_top_images_csv(result).splitlines()
    assert lines[0] == 'adapter,group,expert,rank,image,gate,path'
    assert len(lines) == 1 + sum(len(adapter.groups) * adapter.num_experts for adapter in run.adapters) * 8
    assert lines[1].startswith('stage1/block01/after_token_mixer,down,1,1,') and 'folder/' in lines[1]
    name, group = find_most_dependent(result, 'stage3/block02/after_token_mixer')
    assert name == 'stage3/block02/after_token_mixer' and group in run.adapters[10].groups
    draw_top_images(result, name, group, run.get_picture, tmp_path / 'top.png')
    assert (tmp_path / 'top.png').stat().st_size > 5000
    assert np.array_equal(run.get_picture(3), Data()[3]['inputs'].permute(1, 2, 0).numpy())


# ---- errors ----


def test_sentences(tmp_path):
    with pytest.raises(InputError, match='Net has no AdaRoute adapter, so it has no gates'):
        RoutingMeasurement(Net('frozen'), Data(), tmp_path, {})
    model = Net()
    run = RoutingMeasurement(model, Data(), tmp_path, {})
    with pytest.raises(ParameterError, match="adapter='stage9' .* has stage1/block01/after_token_mixer, stage1/"):
        run.check_adapter('stage9')
    with pytest.raises(ParameterError, match="classes='d' is not allowed: the data have a, b, c"):
        run.check_class('d')
    nn.init.constant_(run.adapters[3].router.gates.bias, math.nan)
    with pytest.raises(InputError, match='gates of stage1/block02/after_channel_mixer are not finite'):
        run.run()


def test_copies_and_pickles_of_a_model_that_is_looked_at_read_nothing():
    model, seen = Net(), []
    handles = attach_readers(find_routed_adapters(model), lambda number, gates: seen.append(number))
    for other in (copy.deepcopy(model.backbone), pickle.loads(pickle.dumps(model.backbone))):
        other(torch.zeros(1, 3, 64, 64))
    assert not seen
    model.backbone(torch.zeros(1, 3, 64, 64))
    assert seen == list(range(20)) and len(handles) == 20


# ---- the tool ----


@pytest.mark.full
@pytest.mark.parametrize('task', ['segmentation', 'detection', 'classification'])
def test_tool(task, tmp_path, capsys, monkeypatch):
    write_scenes(tmp_path / 'scenes', 2, 3, size=(64, 96), progress=False)
    one_output = dict(out_indices=(3, ), pad_small_map=True) if task == 'classification' else {}
    cfg = task_config(
        task, tmp_path / 'scenes', tmp_path / task,
        dict(type='mmparax.AdaptedSwin', adapter=dict(type='mmparax.AdaRoute', hidden_dim=4, kernel_sizes=()),
             allow_random_base=True, **{**TINY_SWIN, **one_output}))
    cfg.dump(tmp_path / 'config.py')
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    set_gates(model, lambda experts: [0.] * experts)
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'weights.pth')
    name = cfg.val_dataloader.dataset.metainfo.classes[0]
    arguments = [
        tmp_path / 'config.py', tmp_path / 'weights.pth', '--out-dir', tmp_path / 'out', '--device', 'cpu', '--batch-size', '2',
        '--classes', name
    ]
    monkeypatch.setattr(sys, 'argv', ['routing.py', *map(str, arguments)])
    runpy.run_path(str(TOOL), run_name='__main__')
    text = capsys.readouterr().out
    assert 'Warning: Gates that do not depend on the input' in text and '40 of 40 groups' in text
    result = json.loads((tmp_path / 'out' / 'routing.json').read_text())
    assert result['images'] == result['images_in_data'] >= 3 and sum(result['classes']['images']) >= 3
    assert result['adapters'][0]['groups']['up']['usage'] == pytest.approx([0.5, 0.5])
    for picture in ('usage', 'entropy', 'classes', 'images', 'class_' + name.replace(' ', '-')):
        assert (tmp_path / 'out' / f'routing_{picture}.png').stat().st_size > 5000
