"""What the runner does with runs that are new, stopped, done, failed, of other settings, or another process's."""
import json
import os
import signal
import threading
import time
from contextlib import contextmanager

import pytest
from tqdm import tqdm

from helpers.reproduction import StandInLauncher, StandInScale, wish
from mmparax.reproduce.entries import list_paper_entries
from mmparax.reproduce.process import parse_progress, run_script
from mmparax.reproduce.report import TablesReport
from mmparax.reproduce.runner import ScriptLauncher, TableRunner, find_reason
from mmparax.reproduce.state import DONE, FAILED, NOT_RUN, RUNNING, STOPPED, fill_columns
from mmparax.reproduce.tiny import RULES
from mmparax.utils.locks import in_use, lock_folder, unlock_folder

LORA, MONA = StandInScale.entries


@pytest.fixture
def runner(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('mmparax.reproduce.runner.compute_code_version', lambda: 'now')
    runner = TableRunner(StandInScale(), tmp_path, StandInLauncher(), said.append)
    runner.said = said
    return runner


def run(runner, entries=(LORA, MONA), seeds=(0, )):
    return [outcome.kind for outcome in runner.run_all(runner.list_runs(entries, seeds))]


@contextmanager
def elsewhere(action, until_then):
    """Do something in another process and wait for what it is to bring about; kill the process in the end if it is there."""
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            tqdm.set_lock(threading.RLock())  # the default one is shared with this process, which a kill would leave locked
            action()
        finally:
            os._exit(0)
    try:
        until(until_then)
        yield child
    finally:
        end(child, signal.SIGKILL)


def end(child, sent):
    """Send a signal to a child that may have ended, and wait for its end."""
    try:
        os.kill(child, sent)
        os.waitpid(child, 0)
    except (ChildProcessError, ProcessLookupError):
        pass


def training(runner):
    """Another process that trains the first entry and waits at iteration 3."""
    wish(runner, LORA, 'wait')
    return elsewhere(lambda: run(runner, [LORA]), lambda: runner.read_state(LORA, 0).text == 'running at iteration 3 of 4')


def until(condition, seconds=30):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end
        time.sleep(0.02)


def test_what_is_missing_is_run_and_what_is_done_is_kept(runner):
    assert runner.read_state(LORA, 0).kind == NOT_RUN and not runner.get_folder(LORA, 0).path.exists()
    assert run(runner, seeds=(0, 1)) == [DONE] * 4
    assert [line.strip() for line in runner.said
            if 'entry' in line][1] == ('Table entry 2 of 4: Table 1, swin-mini, Mona, seed 0')
    folder = runner.get_folder(MONA, 1)
    result = json.loads((folder.path / 'result.json').read_text())
    assert result['metrics'] == {'mIoU': 12.5} and result['parameters'] == 1234 and result['starts'] == 1
    assert result['settings'] == runner.scale.collect_settings(MONA, 1) and result['seconds'] >= result['seconds_training'] > 0
    assert runner.read_state(MONA, 1).text == 'done: mIoU 12.5'
    before = (folder.path / 'result.json').stat().st_mtime_ns
    assert run(runner, seeds=(0, 1)) == [DONE] * 4 and 'before, kept' in runner.said[-1]
    assert (folder.path / 'result.json').stat().st_mtime_ns == before


def test_one_failure_does_not_stop_the_rest_and_is_tried_again(runner):
    wish(runner, LORA, 'fail')
    outcomes = runner.run_all(runner.list_runs([LORA, MONA], [0]))
    assert [outcome.kind for outcome in outcomes] == [FAILED, DONE]
    assert 'InputError: it was told to fail' in outcomes[0].text and 'train.txt' in outcomes[0].text
    assert runner.read_state(LORA, 0).text == 'failed at iteration 3 of 4: InputError: it was told to fail'
    assert not in_use(runner.get_folder(LORA, 0).path)
    wish(runner, LORA, '')
    assert run(runner) == [DONE, DONE] and runner.read_state(LORA, 0).result['starts'] == 2
    assert 'begins at 2' in runner.get_folder(LORA, 0).train_log.read_text()  # from its checkpoint, not anew


@pytest.mark.parametrize('error', [OSError('no such disk'), KeyError('type'), SyntaxError('a config')], ids=repr)
def test_no_error_of_one_run_stops_the_rest(runner, monkeypatch, error):
    settings = runner.scale.collect_settings

    def fail(entry, seed):
        if entry is LORA:
            raise error
        return settings(entry, seed)

    monkeypatch.setattr(runner.scale, 'collect_settings', fail)
    outcomes = runner.run_all(runner.list_runs([LORA, MONA], [0]))
    assert [outcome.kind for outcome in outcomes] == [FAILED, DONE]
    assert outcomes[0].text == f'failed: {type(error).__name__}: {error}' and not in_use(runner.get_folder(LORA, 0).path)


def test_a_folder_that_cannot_be_locked_fails_alone_and_an_interrupt_ends_all(runner, monkeypatch):
    place = runner.get_folder(LORA, 0).path
    place.parent.mkdir(parents=True)
    place.write_text('a file')
    outcomes = runner.run_all(runner.list_runs([LORA, MONA], [0]))
    assert [outcome.kind for outcome in outcomes] == [FAILED, DONE] and 'cannot be written to' in outcomes[0].text

    def interrupt(run):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, '_run_one', interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(runner)


@pytest.mark.parametrize('best, chosen, value', [('2', 'iter_4.pth', 12.5), ('better', 'best_mIoU_iter_2.pth', 13.5),
                                                 ('4', 'best_mIoU_iter_2.pth', 12.5)])
def test_a_last_checkpoint_that_was_not_validated_is_compared_with_the_best(runner, tmp_path, best, chosen, value):
    runner = TableRunner(StandInScale(best_by='mIoU'), tmp_path, StandInLauncher(), runner.said.append)
    wish(runner, LORA, 'fail late')
    assert run(runner, [LORA]) == [FAILED] and runner.get_folder(LORA, 0).read_checkpoint_step() == ('iter', 4)
    (runner.get_folder(LORA, 0).train / 'best_mIoU_iter_2.pth').write_text(best)
    assert run(runner, [LORA]) == [DONE]
    result = runner.read_state(LORA, 0).result
    assert (result['checkpoint'], result['metrics']['mIoU']) == (chosen, value)
    assert result['compared'] == {'best_mIoU_iter_2.pth': {'2': 11.5, 'better': 13.5, '4': 12.5}[best], 'iter_4.pth': 12.5}


def test_the_best_checkpoint_of_a_training_that_ended_well_is_not_compared(runner, tmp_path):
    runner = TableRunner(StandInScale(best_by='mIoU'), tmp_path, StandInLauncher(gpus=4), runner.said.append)
    assert run(runner, [LORA]) == [DONE]
    result = runner.read_state(LORA, 0).result
    assert result['checkpoint'] == 'best_mIoU_iter_4.pth' and result['compared'] == {} and result['gpus'] == 4


@pytest.mark.parametrize('sent', [signal.SIGKILL, signal.SIGINT])
def test_a_killed_runner_takes_its_training_along_and_is_resumed(runner, sent):
    with training(runner) as child:
        below, = open(f'/proc/{child}/task/{child}/children').read().split()
        end(child, sent)
    until(lambda: not os.path.exists(f'/proc/{below}') or open(f'/proc/{below}/stat').read().split()[2] == 'Z')
    assert runner.read_state(LORA, 0).kind == STOPPED and runner.read_state(LORA, 0).text == 'stopped at iteration 2 of 4'
    wish(runner, LORA, '')
    assert run(runner, [LORA]) == [DONE] and 'begins at 2' in runner.get_folder(LORA, 0).train_log.read_text()


def test_a_second_start_leaves_a_running_cell_alone_and_goes_on(runner):
    with training(runner):
        outcomes = runner.run_all(runner.list_runs([LORA, MONA], [0]))
    assert [outcome.kind for outcome in outcomes] == ['skipped', DONE]
    assert 'another process has it (running at iteration 3 of 4)' in outcomes[0].text


def test_a_training_that_another_runner_left_is_left_alone(runner):
    train = runner.get_folder(LORA, 0).train
    with elsewhere(lambda: (lock_folder(train), time.sleep(60)), lambda: in_use(train)):
        assert run(runner) == ['skipped', DONE]
    assert not in_use(train) and run(runner) == [DONE, DONE]


def test_results_of_other_settings_are_not_taken_and_not_deleted(runner, tmp_path):
    assert run(runner, [LORA]) == [DONE]
    other = TableRunner(StandInScale(iterations=8), tmp_path, StandInLauncher(), runner.said.append)
    assert other.read_state(LORA, 0).text == 'not run (another run, of other settings, is here)'
    assert run(other, [LORA]) == [DONE]
    kept = runner.get_folder(LORA, 0).path / 'earlier_1'
    assert json.loads((kept / 'result.json').read_text())['settings']['iterations'] == 4
    assert any('kept in' in line for line in runner.said)
    assert 'begins at 0' in other.get_folder(LORA, 0).train_log.read_text()
    assert runner.read_state(LORA, 0).kind == NOT_RUN


def test_results_of_other_code_are_named_and_replaced_only_on_request(runner, tmp_path):
    assert run(runner, [LORA]) == [DONE]
    folder = runner.get_folder(LORA, 0)
    folder.write_result({**json.loads((folder.path / 'result.json').read_text()), 'code': 'older'})
    assert runner.read_state(LORA, 0).text == 'done: mIoU 12.5, by other code' and run(runner, [LORA]) == [DONE]
    report = TablesReport(runner, [LORA], tmp_path)
    section, = report.build_tables()
    assert '1 of them by other code' in report.build_introduction()[1] and any(value.text == '0*' for value in section.rows[0])
    assert '*: run by other code than the present one.' in section.notes
    again = TableRunner(runner.scale, tmp_path, StandInLauncher(), runner.said.append, rerun_outdated=True)
    assert run(again, [LORA]) == [DONE] and runner.read_state(LORA, 0).text == 'done: mIoU 12.5'
    assert json.loads((folder.path / 'earlier_1' / 'result.json').read_text())['code'] == 'older'


def test_epochs_of_a_stopped_run_count_in_iterations(runner):
    folder, settings = runner.get_folder(LORA, 0), runner.scale.collect_settings(LORA, 0)
    folder.update_record(settings=settings)
    folder.train_log.write_text('Epoch(train)  [3][  50/7330]  lr\n')
    folder.train.mkdir()
    (folder.train / 'last_checkpoint').write_text('/elsewhere/epoch_2.pth')
    length = dict(iterations=None, epochs=12)
    assert folder.read_checkpoint_step() == ('epoch', 2)
    assert folder.determine_state(settings, length).text == 'stopped at iteration 14660 of 87960'
    folder.update_record(failure='out of memory')
    assert folder.determine_state(settings, length).text == 'failed at iteration 14710 of 87960: out of memory'


def test_evaluation_alone_is_made_up_for(runner):
    assert run(runner, [LORA]) == [DONE]
    folder = runner.get_folder(LORA, 0)
    (folder.path / 'result.json').unlink()
    assert runner.read_state(LORA, 0).text == 'stopped at iteration 4 of 4'
    log = folder.train_log.read_text()
    assert run(runner, [LORA]) == [DONE] and folder.train_log.read_text() == log


def test_dry_run_prints_commands_and_writes_nothing(runner, tmp_path):
    runner.print_commands(runner.list_runs([LORA], [0]))
    assert runner.said[0] == '# Table 1, swin-mini, LoRA, seed 0: not run' and '--resume --no-validate' in runner.said[1]
    assert f'{runner.get_folder(LORA, 0).train}/iter_4.pth' in runner.said[2] and not list(tmp_path.iterdir())


def test_a_lock_is_seen_without_being_taken(tmp_path):
    assert not in_use(tmp_path) and not in_use(tmp_path / 'nowhere') and not list(tmp_path.iterdir())
    with elsewhere(lambda: (lock_folder(tmp_path), time.sleep(60)), lambda: in_use(tmp_path)):
        pass
    assert not in_use(tmp_path)
    lock_folder(tmp_path)
    assert in_use(tmp_path)
    unlock_folder(tmp_path)
    assert not in_use(tmp_path)


@pytest.mark.parametrize('line, mode, epochs, expected',
                         [('mmengine - INFO - Iter(train) [  50/160000]  lr: 1e-4', 'train', None, (50, 160000)),
                          ('Epoch(train)  [3][  50/7330]  lr', 'train', 12, (2 * 7330 + 50, 12 * 7330)),
                          ('Epoch(test) [10/50]    eta', 'test', None, (10, 50)),
                          ('Iter(test) [ 10/250]    eta', 'test', None, (10, 250)),
                          ('Iter(train) [ 50/100]\nIter(val) [10/10]', 'train', None, (50, 100)),
                          ('Saving checkpoint at 50', 'train', None, None)])
def test_progress_is_read_off_the_lines_of_mmengine(line, mode, epochs, expected):
    assert parse_progress(line, mode, epochs) == expected


def test_what_a_detector_does_not_find_counts_as_zero_and_what_has_no_value_as_none():
    assert fill_columns({}, 'The testing results of the whole dataset is empty.', ('AP^b', 'AP^m')) == {'AP^b': 0., 'AP^m': 0.}
    assert fill_columns({}, '', ('AP^b', )) == {'AP^b': None}
    assert fill_columns({'coco/bbox_mAP': 0.081}, '', ('AP^b', )) == {'AP^b': pytest.approx(8.1)}


@pytest.mark.parametrize(
    'output, reason',
    [('log\nMissingFileError: no data\nreport of the launcher\n', 'MissingFileError: no data'), ('log\nKilled', 'Killed'),
     ('InputError: wrong\nbrokenpipe.SomeError: late\n' + 'line\n' * 99, 'InputError: wrong'),
     ('[rank0]: mmparax.errors.StorageError: full\ntorch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n====',
      'mmparax.errors.StorageError: full'),
     ('KeyError: 1\nRuntimeError: 2\ntorch.distributed.elastic.multiprocessing.errors.ChildFailedError:', 'RuntimeError: 2'),
     ('', 'it printed nothing')])
def test_the_reason_of_a_failure_is_its_own_error_and_not_the_launchers(output, reason):
    assert find_reason(output) == reason


@pytest.mark.parametrize('one_process, said', [(True, '63'), (False, 'unset')])
def test_only_one_process_is_told_how_many_threads_it_has(one_process, said, tmp_path, monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    monkeypatch.setattr(os, 'cpu_count', lambda: 64)
    command = ['bash', '-c', 'echo ${OMP_NUM_THREADS-unset}']
    assert run_script(command, tmp_path / 'log', 'it', 'train', one_process=one_process).strip() == said


def test_slurm_runs_have_ports_of_their_own(monkeypatch):
    monkeypatch.delenv('PORT', raising=False)
    launcher = ScriptLauncher('slurm', 8, 'gpu')
    ports = [launcher.build_environment(run)['PORT'] for run in ('a/seed0', 'a/seed1', 'b/seed0')]
    assert len(set(ports)) == 3 and all(20000 <= int(port) < 30000 for port in ports)
    assert launcher.build_environment('a/seed0')['PORT'] == ports[0]
    assert 'PORT' not in ScriptLauncher('pytorch', 4).build_environment('a/seed0')
    monkeypatch.setenv('PORT', '1234')
    assert launcher.build_environment('a/seed0')['PORT'] == '1234'


# ---- the report ----


def sections(runner, folder):
    return TablesReport(runner, runner.scale.entries, folder).build_tables()


def test_report_says_not_run_and_never_a_published_number_as_measured(runner, tmp_path):
    section, = sections(runner, tmp_path)
    columns = {name: position for position, name in enumerate(section.header)}
    for row in section.rows:
        assert row[columns['mIoU measured here (tiny)']].text == NOT_RUN and row[columns['rank measured']].text == '–'
        assert row[columns["mIoU published (paper's scale), Swin-B"]].text in ('49.4', '49.8')
    assert not any('difference' in name for name in section.header)
    assert any('Swin-B: Mona > LoRA' in note for note in section.notes) and RULES[0].startswith('Sizes')


def test_report_has_mean_and_spread_of_the_seeds_with_links_to_their_logs(runner, tmp_path):
    assert run(runner, [LORA], seeds=(0, 1)) == [DONE, DONE]
    folder = runner.get_folder(LORA, 1)
    result = json.loads((folder.path / 'result.json').read_text())
    result['metrics']['mIoU'] = 13.5
    folder.write_result(result)
    section, = sections(runner, tmp_path)
    texts = [value.text for value in section.rows[0]]
    assert '13.0 ± 0.7' in texts and '0, 1' in texts
    links = [link for value in section.rows[0] for _, link in value.pieces if link]
    assert links == [f'tiny/lora/seed{seed}/train.txt' for seed in (0, 1)]
    elsewhere, = sections(runner, tmp_path / 'docs')
    assert not any(link for value in elsewhere.rows[0] for _, link in value.pieces)
    assert '0, 1' in [value.text for value in elsewhere.rows[0]] and not any('*' in note for note in elsewhere.notes)


def test_report_says_which_seeds_are_missing(runner, tmp_path):
    assert run(runner, [LORA], seeds=(0, )) == [DONE]
    wish(runner, LORA, 'fail')
    run(runner, [LORA], seeds=(1, ))
    section, = sections(runner, tmp_path)
    texts = [value.text for value in section.rows[0]]
    assert '12.5 (1 of 2 seeds)' in texts and '0, 1: failed' in texts
    section, = TablesReport(runner, runner.scale.entries, tmp_path, seeds=range(3)).build_tables()
    assert '12.5 (1 of 3 seeds)' in [value.text for value in section.rows[0]]


class StandInFull(StandInScale):
    """The entries of LoRA in Table 4, at full scale."""
    name = 'full'
    entries = [entry for entry in list_paper_entries() if (entry.table, entry.row) == (4, 'LoRA')]


@pytest.mark.parametrize('done, average', [(2, ('90.4', '2 of 3 data sets', '–')), (3, ('90.4', '87.2', '−3.2'))])
def test_full_report_has_differences_and_the_average_of_all_data_sets(runner, tmp_path, done, average):
    runner = TableRunner(StandInFull(), tmp_path, StandInLauncher())
    for entry, value in zip(runner.scale.entries[:done], (86.5, 96.0, 79.0), strict=False):
        settings, folder = runner.scale.collect_settings(entry, 0), runner.get_folder(entry, 0)
        folder.update_record(settings=settings)
        folder.write_result(dict(settings=settings, metrics={'top-1': value}, code='now', machine='m'))
    section, = sections(runner, tmp_path)
    start = section.header.index('top-1 published')
    texts = [tuple(value.text for value in row[start:start + 3]) for row in section.rows]
    assert texts[:2] == [('86.2', '86.5', '+0.3'), ('97.1', '96.0', '−1.1')] and texts[3] == average
    assert texts[2] == (('87.8', '79.0', '−8.8') if done == 3 else ('87.8', 'not run', '–'))
    assert section.rows[3][2].text == 'average' and len({len(row) for row in section.rows}) == 1
    assert [section.rows[0][start + place].kind for place in range(3)] == ['published', 'measured', 'measured']


def test_report_shows_what_stands_at_a_run_that_is_not_done(runner, tmp_path):
    wish(runner, LORA, 'fail')
    run(runner)
    section, = sections(runner, tmp_path)
    assert any(value.text.startswith('failed at iteration 3 of 4') for value in section.rows[0])
    assert runner.read_state(LORA, 0).kind != RUNNING
