"""A run that is interrupted and resumed is the undisturbed run, bit for bit, whatever interrupted it."""
import logging
import os
import re
import resource
import shutil
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import CheckpointHook as StockHook
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler

import mmparax
from helpers import runs
from helpers.runs import build, config, in_child, same, saved, train
from mmparax.datasets.order import get_sampler, make_resumable
from mmparax.errors import InputError
from mmparax.hooks.checkpoint_hook import STATE, prepare_optimizer_state
from mmparax.utils import atomic_backend, locks, storage
from mmparax.weights.reader import read_file

EMA = dict(type='mmparax.EMAHook', momentum=0.3)
# id -> (options of the undisturbed run, what is different in its first part, what is different in the resumed part)
RUNS = {
    'iterations': ({}, dict(iterations=3), {}),
    'ends-between-checkpoints': (dict(interval=4, iterations=9), dict(iterations=5), {}),
    'epochs': (dict(epochs=3), dict(epochs=1), {}),
    'epochs-workers': (dict(epochs=3), dict(epochs=1, workers=2), dict(workers=1)),
    'iterations-workers': ({}, dict(iterations=3, workers=1), dict(workers=2)),
    'ema': (dict(hooks=[EMA]), dict(iterations=3), {}),
    'save-best': (dict(checkpoint=dict(save_best='mIoU')), dict(iterations=3), {}),
    'full': (dict(adapter=None), dict(iterations=3), {}),
    'seed-not-in-the-config': ({}, dict(iterations=3), dict(seed=None)),
}


def assert_equal_runs(first, second):
    one, two = saved(first), saved(second)
    assert not same(one['state_dict'], two['state_dict'])
    for name, state in one['optimizer']['state'].items():
        assert not same(state, two['optimizer']['state'][name])
    assert one['param_schedulers'] == two['param_schedulers'] and one['meta']['iter'] == two['meta']['iter']
    if 'ema_state_dict' in one:
        assert not same(one['ema_state_dict'], two['ema_state_dict'])


@pytest.fixture(scope='module')
def in_one_go(tmp_path_factory):
    """Options of a run -> the work dir of that run without a disturbance, made once."""
    made = {}

    def folder(options):
        if repr(options) not in made:
            made[repr(options)] = tmp_path_factory.mktemp('one')
            train(made[repr(options)], **options)
        return made[repr(options)]

    return folder


def some(quick, more):
    """Cases for every run of the tests, and more for the full one."""
    return [*quick, *(pytest.param(case, marks=pytest.mark.full) for case in more if case not in quick)]


@pytest.mark.parametrize('case', some([case for case in RUNS if case not in ('iterations', 'epochs')], RUNS))
def test_a_resumed_run_is_the_undisturbed_one(case, in_one_go, tmp_path):
    options, first_part, second_part = RUNS[case]
    train(tmp_path, **{**options, **first_part})
    resumed = train(tmp_path, resume=True, **{**options, **second_part})
    assert resumed.iter == saved(tmp_path)['meta']['iter']
    assert_equal_runs(in_one_go(options), tmp_path)


@HOOKS.register_module(force=True)
class Stop(Hook):
    """Ends a run as Ctrl-C does."""
    priority = 'LOWEST'

    def after_train_iter(self, runner, **_):
        if runner.iter == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize('accumulate', some([4], [1, 2]))
def test_an_interrupt_amid_accumulated_steps_loses_no_gradient(accumulate, in_one_go, tmp_path):
    options = dict(accumulate=accumulate, iterations=8, val=False)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, hooks=[dict(type='Stop', _scope_='mmengine')], **options)
    locks.unlock_folder(tmp_path)
    assert bool(saved(tmp_path)[STATE][0]['gradients']) == (accumulate > 1)
    train(tmp_path, resume=True, **options)
    assert_equal_runs(in_one_go(options), tmp_path)


def test_the_check_sees_what_is_not_restored(in_one_go, tmp_path, monkeypatch):
    """With the generators left as they are, dropout and drop path make another run of it."""
    train(tmp_path, iterations=3)
    monkeypatch.setattr('mmparax.hooks.checkpoint_hook.restore_generators', lambda states: None)
    train(tmp_path, resume=True)
    assert same(saved(in_one_go({}))['state_dict'], saved(tmp_path)['state_dict'])


def test_the_augmentations_of_a_sample_do_not_depend_on_the_loader(tmp_path):
    """The same images whether the training process or its workers load them, and other ones in every pass."""
    images = []
    for workers in (0, 2):
        runner = build(config(tmp_path / str(workers), workers=workers))
        runner._train_loop = runner.build_train_loop(runner._train_loop)
        runner.call_hook('before_run')
        iterator = runner.train_loop.dataloader_iterator
        images.append([torch.stack(next(iterator)['inputs']) for _ in range(8)])
    assert all(torch.equal(a, b) for a, b in zip(*images))
    flat = torch.cat(images[0]).flatten(1)
    assert len(torch.unique(flat, dim=0)) == 16  # seven images, twice and more, never the same


class Draws(Dataset):
    """What the generators give for every index."""
    pipeline = 'first'

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return index, np.random.rand(), self.pipeline


@pytest.mark.parametrize('kind', ['sequential', 'shuffled', 'numpy'])
def test_a_sampler_without_epochs_draws_anew_in_every_pass(kind):
    """torch's own samplers, in passes of an iteration-based run and in epochs that a resumed run continues."""
    sampler = SubsetRandomSampler(np.arange(4)) if kind == 'numpy' else None
    make = partial(DataLoader, Draws(), batch_size=None, shuffle=kind == 'shuffled', sampler=sampler)
    loader = make_resumable(make(batch_size=2, collate_fn=list), seed=1, rank=0)
    passes = [[draw for batch in loader for _, draw, _ in batch] for _ in range(3)]
    assert len(set(sum(passes, []))) == 12
    loaders = [make_resumable(make(batch_size=2, collate_fn=list), seed=1, rank=0) for _ in range(2)]
    epochs = []
    for loader, epoch in ((loaders[0], 0), (loaders[0], 1), (loaders[1], 1)):
        get_sampler(loader).run_epoch = epoch
        epochs.append([draw for batch in loader for _, draw, _ in batch])
    assert epochs[1] == epochs[2] and set(epochs[0]).isdisjoint(epochs[1])


def test_hooks_that_change_the_data_set_reach_it():
    """mmdet switches pipelines so."""
    data = Draws()
    loader = make_resumable(DataLoader(data, batch_size=2, collate_fn=list), seed=0, rank=0)
    loader.dataset.pipeline = 'second'
    assert data.pipeline == 'second' and {pipeline for batch in loader for *_, pipeline in batch} == {'second'}
    get_sampler(loader).data_source = None
    assert get_sampler(loader).wrapped.data_source is None


def test_a_save_that_could_not_be_read_back_stops_at_once(tmp_path):

    def spoil(runner):
        runner.message_hub.update_info('strange', Stop)

    runner = build(config(tmp_path, val=False))
    runner.register_hook(type('Spoil', (Hook, ), dict(before_train=lambda self, runner: spoil(runner)))())
    with pytest.raises(ValueError, match="iter_3.pth' was not loaded: .*Stop"):
        runner.train()
    locks.unlock_folder(tmp_path)


def test_checkpoints_amid_an_epoch_are_warned_of(tmp_path, caplog):
    cfg = config(tmp_path, epochs=1, val=False)
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=2)
    runner = build(cfg)
    lines = []
    runner.logger.warning = lambda text, *args: lines.append(text)
    runner.train()
    assert any('begins its epoch anew' in line for line in lines)


def finish(folder, **options):
    """Call a run with --resume until it ends, as a user or a job queue does."""
    assert in_child(lambda: train(folder, resume=True, **options)) == 0


KILLED = dict(iterations=4, interval=1, checkpoint=dict(save_best='mIoU'))


def die_at_call(number):
    """Kill this process, without any clean-up, when a checkpoint's writing calls the system for the ``number``-th time."""
    calls = [0]

    def counted(function):

        def wrapper(*arguments, **options):
            calls[0] += 1
            if calls[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return wrapper

    storage.os.fsync = counted(os.fsync)
    for name in ('replace', 'open', 'unlink'):
        setattr(storage.Path, name, counted(getattr(Path, name)))
    atomic_backend.LocalBackend.remove = counted(atomic_backend.LocalBackend.remove)


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp('undisturbed')
    assert in_child(lambda: train(folder, **KILLED)) == 0
    return folder


def check_after_kill(folder):
    """What is there can be read, whatever was going on."""
    assert not [path for path in folder.glob('*.pth') if 'state_dict' not in read_file(path)]
    if (folder / 'last_checkpoint').exists():
        assert Path((folder / 'last_checkpoint').read_text()).is_file()


@pytest.mark.parametrize('call', some([3, 17], range(1, 33)))
def test_a_kill_while_a_checkpoint_is_written_loses_nothing(call, undisturbed, tmp_path):

    def killed():
        die_at_call(call)
        train(tmp_path, **KILLED)

    assert in_child(killed) == -signal.SIGKILL
    check_after_kill(tmp_path)
    finish(tmp_path, **KILLED)
    assert_equal_runs(undisturbed, tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir() if path.suffix == '.pth' and not path.name.startswith('best'))
    assert left == ['iter_4.pth'] and not list(tmp_path.glob('.*.part'))


@pytest.mark.parametrize('after', some([1.5], [0.5 + 0.15 * step for step in range(20)]))
def test_a_kill_at_any_moment_loses_nothing(after, undisturbed, tmp_path):
    code = in_child(lambda: train(tmp_path, **KILLED), kill_after=after)
    assert code == -signal.SIGKILL or saved(tmp_path)['meta']['iter'] == KILLED['iterations']  # a fast machine got through
    check_after_kill(tmp_path)
    finish(tmp_path, **KILLED)
    assert_equal_runs(undisturbed, tmp_path)


def test_a_full_disk_is_one_sentence_and_the_previous_checkpoint_stays(in_one_go, tmp_path):

    def full():
        runner = build(config(tmp_path, interval=1))
        hook = next(hook for hook in runner.hooks if isinstance(hook, StockHook))
        original = hook._save_checkpoint

        def save(runner):
            if runner.iter == 2:  # from the third on, no file may grow beyond 100 kB
                resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            original(runner)

        hook._save_checkpoint = save
        with pytest.raises(OSError, match=r"iter_3.pth' \(.* MiB\) could not be written: File too large.*resume the run"):
            runner.train()

    assert in_child(full) == 0
    assert (tmp_path / 'last_checkpoint').read_text().endswith('iter_2.pth')
    assert saved(tmp_path)['meta']['iter'] == 2 and not list(tmp_path.glob('.*.part'))
    finish(tmp_path)
    assert_equal_runs(in_one_go({}), tmp_path)


def test_two_runs_do_not_share_a_work_dir(tmp_path):

    def second():
        locks._held.clear()  # what a process that was not forked from this one knows
        with pytest.raises(OSError, match=rf"work_dir='.*' is in use .* \(process {os.getppid()} on .*another work_dir"):
            locks.lock_folder(tmp_path)

    locks.lock_folder(tmp_path)
    locks.lock_folder(tmp_path)  # one's own is no obstacle
    assert in_child(second) == 0
    locks.unlock_folder(tmp_path)
    assert in_child(lambda: locks.lock_folder(tmp_path)) == 0
    locks.lock_folder(tmp_path)  # free again since the other one ended
    locks.unlock_folder(tmp_path)


def test_a_work_dir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match="work_dir='.*file/run' cannot be written to.*choose another work_dir"):
        locks.lock_folder(tmp_path / 'file' / 'run')


def test_other_numbers_of_processes_and_stock_files_go_on_with_a_warning(tmp_path, caplog):
    runner = train(tmp_path, iterations=3)
    hook = next(hook for hook in runner.hooks if isinstance(hook, StockHook))
    runner.logger.addHandler(caplog.handler)
    for states, message in ((None, 'not written by mmparax.CheckpointHook'), ([1, 2], '2 process.es. and is resumed by 1')):
        content = {} if states is None else {STATE: states}
        runner._resume = True
        with caplog.at_level(logging.WARNING):
            runner.logger.setLevel(logging.WARNING)
            hook.after_load_checkpoint(runner, content)
        assert re.search(message, caplog.text)
        assert hook._resumed is None


def test_the_counts_of_steps_stay_where_the_optimizer_reads_them():
    """A plain optimizer asks for each of them in every step, and a GPU would make it wait."""
    with FakeTensorMode():
        of_one = {0: dict(step=torch.empty((), device='cuda'), exp_avg=torch.empty(3, device='cuda')), 1: {}}
        of_other = {0: dict(step=7, momentum_buffer=None)}
        state = dict(model=dict(state=of_one, param_groups=[]), other=dict(state=of_other, param_groups=[]))
        prepare_optimizer_state(state)
        prepare_optimizer_state(state['model'])
    assert of_one[0]['step'].device.type == 'cpu' and of_one[0]['exp_avg'].device.type == 'cuda'
    assert of_other[0] == dict(step=7, momentum_buffer=None)


def test_a_loss_scale_begins_anew_where_there_was_none():
    """bf16 has none; a scaler that is on refuses the state of one that was off."""
    states = [dict(state={}, loss_scaler=torch.amp.GradScaler('cpu', enabled=enabled).state_dict()) for enabled in (False, True)]
    for state in states:
        prepare_optimizer_state(state)
    assert 'loss_scaler' not in states[0] and states[1]['loss_scaler']['scale'] == 65536.


def test_operations_without_a_deterministic_kernel_are_warned_of(tmp_path):
    try:
        runs.build(runs.config(tmp_path, iterations=1), randomness=dict(seed=0, deterministic=True)).train()
        assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False


def test_checkpoints_hold_plain_data_and_say_what_they_are(tmp_path):
    runner = train(tmp_path, iterations=3)
    content = read_file((tmp_path / 'last_checkpoint').read_text())  # tensors and plain data only, else refused
    described = content['meta']['mmparax']
    assert described['fingerprint'] == mmparax.fingerprint(runner.model)
    assert described['backbones']['backbone']['adapter']['type'] == 'AdaRoute'
    assert described['backbones']['backbone']['adapter']['hidden_dim'] == 8
    assert [len(content[STATE]), content[STATE][0]['seed']] == [1, 0]


# ---- what a checkpoint says is to be removed ----

BEST = dict(checkpoint=dict(save_best='mIoU'))


def rewrite(work_dir, **info):
    """Change the runtime information of the last checkpoint, with a score that the next validation surpasses."""
    path, content = Path((work_dir / 'last_checkpoint').read_text()), saved(work_dir)
    content['message_hub']['runtime_info'].update({'best_score': -1., **info})
    torch.save(content, path)


def test_a_copied_run_leaves_the_best_checkpoint_of_the_original_alone(tmp_path):
    one, two = tmp_path / 'one', tmp_path / 'two'
    train(one, iterations=3, **BEST)
    best, = one.glob('best_*.pth')
    rewrite(one)
    shutil.copytree(one, two)
    before = {path.name: path.read_bytes() for path in one.glob('*.pth')}
    train(two, iterations=6, resume=True, load_from=str(two / 'iter_3.pth'), **BEST)
    assert {path.name: path.read_bytes() for path in one.glob('*.pth')} == before
    assert [path.name for path in two.glob('best_*.pth')] == ['best_mIoU_iter_6.pth']  # its own copy of the old one is gone


@pytest.mark.parametrize('kind', ['file', 'folder', 'file of another name here', 'link here'])
def test_a_path_in_a_checkpoint_is_never_removed(kind, tmp_path):
    run, victim = tmp_path / 'run', tmp_path / 'victim'
    train(run, iterations=3, **BEST)
    if kind == 'folder':
        victim.mkdir()
        (victim / 'file').write_text('kept')
    else:
        victim = run / 'notes.pth' if 'another name' in kind else victim
        victim.write_text('kept')
    path = victim
    if kind == 'link here':
        path = run / 'best_mIoU_iter_1.pth'
        path.symlink_to(victim)
    rewrite(run, best_ckpt=str(path))
    train(run, iterations=6, resume=True, load_from=str(run / 'iter_3.pth'), **BEST)
    assert victim.exists() and (kind != 'folder' or (victim / 'file').exists()) and (run / 'best_mIoU_iter_6.pth').is_file()


def test_outdated_checkpoints_of_another_pattern_of_names_go(tmp_path):
    options = dict(checkpoint=dict(save_best='mIoU', filename_tmpl='step_{:06d}.pth'))
    train(tmp_path, iterations=3, **options)
    train(tmp_path, iterations=6, resume=True, load_from=str(tmp_path / 'step_000003.pth'), **options)
    names = sorted(path.name for path in tmp_path.glob('*.pth'))
    assert names[-1] == 'step_000006.pth' and len(names) == 2 and names[0].startswith('best_mIoU_step_00000'), names


@pytest.mark.parametrize('kept', [['../victim'], [3, -1], 'iter_3', [True]], ids=str)
def test_numbers_of_checkpoints_to_remove_are_numbers(kept, tmp_path):
    train(tmp_path, iterations=3)
    rewrite(tmp_path, keep_ckpt_ids=kept)
    with pytest.raises(InputError, match='keep_ckpt_ids='):
        train(tmp_path, iterations=6, resume=True, load_from=str(tmp_path / 'iter_3.pth'))


# ---- a resumed state that does not fit ----


def first_of(state):
    return state['state'][min(state['state'])]


DAMAGES = {
    'a shape': (lambda content: first_of(content['optimizer']).update(exp_avg=torch.zeros(3)), 'has the shape'),
    'NaN': (lambda content: first_of(content['optimizer'])['exp_avg'].fill_(float('nan')), 'holds infinite values or NaN'),
    'no tensor': (lambda content: first_of(content['optimizer']).update(exp_avg='text'), 'is a str'),
    'another number': (lambda content: content['optimizer']['state'].update({10**6: first_of(content['optimizer'])}),
                       'a state for the tensor 1000000'),
    'one memory': (lambda content: first_of(content['optimizer']).update(exp_avg_sq=first_of(content['optimizer'])['exp_avg']),
                   'shares its memory'),
    'fewer entries': (lambda content: first_of(content['optimizer']).pop('exp_avg'), 'different entries'),
    'generators': (
        lambda content: content['resume_state'][0]['generators'].update(numpy=('MT19937', torch.zeros(624), -1, 0, 0.)),
        'states of the random generators are damaged'),
    'no generators': (lambda content: content['resume_state'][0].update(generators={}), 'generators are damaged'),
    'a type': (lambda content: content['message_hub'].update(log_scalars=[1]), 'message_hub.log_scalars is a list'),
}


@pytest.mark.parametrize('damage', DAMAGES)
def test_a_damaged_state_is_refused_in_a_sentence(damage, tmp_path):
    change, message = DAMAGES[damage]
    train(tmp_path, iterations=3)
    content = saved(tmp_path)
    change(content)
    torch.save(content, tmp_path / 'iter_3.pth')
    with pytest.raises(InputError, match=message):
        train(tmp_path, iterations=6, resume=True, load_from=str(tmp_path / 'iter_3.pth'))
