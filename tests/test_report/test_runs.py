"""Runs read from their work dirs."""
import copy
import json

import pytest

from helpers.reported import make_entries, make_page, make_run
from mmparax.errors import InputError, MissingFileError
from mmparax.inference.evaluation import describe_evaluation, record_evaluation
from mmparax.report.runs import gather_runs


def test_a_run_and_what_is_known_of_it(tmp_path, scenes):
    run, = gather_runs([str(make_run(tmp_path / 'mine', scenes, seed=3))])
    assert (run.name, run.method, run.seed, run.started) == ('mine', 'AdaRoute', 3, '2026-01-01')
    assert run.backbone == 'Swin (width 8, depth 2-2-4-2)' and run.device == '2 × NVIDIA L40S'
    assert run.metrics == {'mIoU': 20.} and run.source == 'test' and run.seconds_per_iteration == 0.5
    assert run.find_progress() == dict(unit='iteration', done=40, total=40)
    assert run.notes == ['Its checkpoint is not there, so neither are pictures and analyses that need it.']


def test_a_run_of_reproduce_is_found_by_its_folder_and_by_its_training(tmp_path, scenes):
    outer = tmp_path / 'cell' / 'seed0'
    make_run(outer / 'train', scenes, miou=None)
    (outer / 'result.json').write_text(json.dumps(dict(metrics=dict(mIoU=17.4), version='9.9')))
    for given in ([outer], [outer / 'train'], [outer, outer / 'train']):
        run, = gather_runs(list(map(str, given)))
        assert (run.name, run.outer, run.metrics) == ('cell/seed0', outer, {'mIoU': 17.4})
    assert '9.9' in make_page(outer)


@pytest.mark.parametrize('given, metrics, source', [
    (dict(miou=21.), {'mIoU': 21.}, 'test'),
    (dict(miou=None, printed='Iter(test) [25/25]    aAcc: 66.1500  mIoU: 22.7900  time: 0.3'), {'mIoU': 22.79}, 'test'),
    (dict(miou=None, printed='Iter(test) [10/25]    eta: 0:00:07  time: 0.5'), {'mIoU': 11.}, 'last validation'),
    (dict(miou=None, entries=make_entries(4)), {}, ''),
], ids=['written', 'printed', 'validation', 'none'])
def test_the_evaluation_of_the_test_set_goes_before_the_last_validation(tmp_path, scenes, given, metrics, source):
    printed = given.pop('printed', '')
    validated = [*make_entries(4), dict(mIoU=10., time=1., step=20), dict(mIoU=11., time=1., step=40)]
    folder = make_run(tmp_path / 'run', scenes, **{'entries': validated, **given})
    (folder / 'test.txt').write_text(f'11/22 00:22:07 - mmengine - INFO - {printed}\n')
    run, = gather_runs([str(folder)])
    assert (run.metrics, run.source) == (metrics, source)


def test_an_unfinished_run_says_so(tmp_path, scenes):
    run, = gather_runs([str(make_run(tmp_path / 'run', scenes, entries=make_entries(2)))])
    assert 'It is not finished: iteration 20 of 40.' in run.notes


BAD = {
    'missing': (lambda path: None, MissingFileError, "'.*here' does not exist. Give work dirs"),
    'file': (lambda path: path.write_text(''), InputError, "'.*here' is a file, not a folder"),
    'empty': (lambda path: path.mkdir(), InputError, "the folder '.*here' is empty"),
    'other': (lambda path: (path / 'x').mkdir(parents=True), InputError, "'.*here' holds no run"),
    'config alone': (lambda path: (path.mkdir(), (path / 'a.py').write_text('')), InputError, "'.*here' holds no run"),
}


@pytest.mark.parametrize('case', BAD)
def test_a_folder_without_a_run_is_one_sentence(tmp_path, case):
    make, error, message = BAD[case]
    make(tmp_path / 'here')
    with pytest.raises(error, match=message):
        gather_runs([str(tmp_path / 'here')])


def test_a_folder_of_runs_names_them(tmp_path, scenes):
    make_run(tmp_path / 'a', scenes)
    with pytest.raises(InputError, match=r'is no run, but runs are in it, 1 \(a\)'):
        gather_runs([str(tmp_path)])


def add_evaluation(folder, session, miou, changes, described):
    """Write an evaluation of a run with some changes of its config, as tools/test.py does, or as it did before."""
    run, = gather_runs([str(folder)])
    cfg = copy.deepcopy(run.cfg)
    cfg.merge_from_dict({f'test_dataloader.dataset.{name}': value for name, value in changes.items()})
    place = folder / session
    (place / 'vis_data').mkdir(parents=True)
    (place / f'{session}.json').write_text(json.dumps(dict(mIoU=miou)))
    if described:
        record_evaluation(place, dict(mIoU=miou), describe_evaluation(cfg, range(7), 'x.pth'))
    else:
        cfg.dump(place / 'vis_data' / 'config.py')


@pytest.mark.parametrize('described', [True, False])
@pytest.mark.parametrize('changes, taken', [({}, True), (dict(indices=7), False), (dict(data_root='elsewhere'), False),
                                            (dict(pipeline=[]), True)], ids=str)
def test_only_an_evaluation_of_its_own_data_is_a_run_s_result(changes, taken, described, tmp_path, scenes):
    folder = make_run(tmp_path / 'run', scenes)
    add_evaluation(folder, '20260104_000000', 99., changes, described)
    run, = gather_runs([str(folder)])
    assert run.metrics == {'mIoU': 99. if taken else 20.} and run.source == 'test'
    refused = [note for note in run.notes if 'is not its result' in note]
    assert len(refused) == (not taken)
    if described:
        assert run.images == ('7 images of validation' if taken else '')
        assert not refused or '(7 images of validation' in refused[0]
    if not taken:
        name, = changes
        assert f'it is on other data than its config names, dataset.{name}={changes[name]!r} instead of' in refused[0]


def test_what_was_printed_of_other_data_is_no_result_either(tmp_path, scenes):
    folder = make_run(tmp_path / 'run', scenes, miou=None, entries=make_entries(4))
    add_evaluation(folder, '20260104_000000', 99., dict(indices=1), True)
    (folder / 'test.txt').write_text('11/22 00:22:07 - mmengine - INFO - Iter(test) [1/1]    mIoU: 99.0000  time: 0.3\n')
    run, = gather_runs([str(folder)])
    assert run.metrics == {} and run.evaluated == ''


def test_numbers_carry_their_images(tmp_path, scenes):
    folder = make_run(tmp_path / 'run', scenes)
    add_evaluation(folder, '20260104_000000', 99., {}, True)
    assert 'test, 7 images of validation' in make_page(folder)
