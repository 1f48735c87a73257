"""Several processes and mixed precision: what is done where there is no GPU, and what holds between two processes."""
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from helpers.processes import fork, run
from mmparax.errors import InputError, ParameterError
from mmparax.utils.launch import (
    MALLOC_SETTINGS,
    evaluate_without_amp,
    keep_freed_memory,
    prepare_processes,
    replace_sync_bn,
    use_amp,
)
from mmparax.utils.ranks import is_first_process

ROOT = Path(__file__).parents[2]
CHECKS = [
    'gradients_are_those_of_one_process', 'every_method_synchronises', 'a_resumed_run_is_the_undisturbed_one',
    'processes_that_start_elsewhere_are_refused', 'one_process_of_a_machine_downloads', 'every_task_trains_and_evaluates'
]


@pytest.fixture(scope='module')
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('two')
    return folder, fork(ROOT / 'tests' / 'helpers' / 'two_processes.py', folder, cwd=folder, processes=2).stdout


@pytest.mark.parametrize('check', CHECKS)
def test_two_processes(check, two_processes):
    folder, output = two_processes
    for rank in (0, 1):
        path = folder / f'{check}.{rank}.txt'
        assert path.exists(), output[-3000:]
        assert path.read_text() == 'ok', path.read_text()


PRECISION = {
    'fp16': ('fp16', dict(type='OptimWrapper'), dict(type='AmpOptimWrapper', dtype='float16', loss_scale='dynamic')),
    'bf16': ('bf16', dict(type='OptimWrapper'), dict(type='AmpOptimWrapper', dtype='bfloat16', loss_scale=dict(enabled=False))),
    'bf16-over-fp16': ('bf16', dict(type='AmpOptimWrapper', loss_scale='dynamic'),
                       dict(type='AmpOptimWrapper', dtype='bfloat16', loss_scale=dict(enabled=False))),
    'kept': (None, dict(type='AmpOptimWrapper', loss_scale=128.), dict(type='AmpOptimWrapper', loss_scale=128.)),
    'scale-kept': ('fp16', dict(type='OptimWrapper',
                                loss_scale=128.), dict(type='AmpOptimWrapper', dtype='float16', loss_scale=128.)),
    'fp16-over-bf16': ('fp16', dict(type='AmpOptimWrapper', dtype='bfloat16', loss_scale=dict(enabled=False)),
                       dict(type='AmpOptimWrapper', dtype='float16', loss_scale='dynamic')),
    'none': (None, dict(type='OptimWrapper'), dict(type='OptimWrapper')),
}


@pytest.mark.parametrize('case', PRECISION)
def test_mixed_precision(case, monkeypatch):
    precision, wrapper, expected = PRECISION[case]
    monkeypatch.setattr('mmparax.utils.launch.get_device', lambda: 'cuda')
    cfg = Config(dict(optim_wrapper=wrapper))
    use_amp(cfg, precision)
    assert cfg.optim_wrapper.to_dict() == expected
    monkeypatch.setattr('mmparax.utils.launch.get_device', lambda: 'cpu')
    use_amp(cfg, precision)
    assert cfg.optim_wrapper.to_dict() == dict(type='OptimWrapper')


def test_bf16_needs_a_gpu_that_does_not_emulate_it(monkeypatch):
    monkeypatch.setattr('mmparax.utils.launch.get_device', lambda: 'cuda')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation=True: including_emulation)
    with pytest.raises(InputError, match='bf16 needs a GPU that has it .NVIDIA: Ampere or newer.; use fp16'):
        use_amp(Config(dict(optim_wrapper=dict(type='OptimWrapper'))), 'bf16')


def test_mixed_precision_needs_a_wrapper_that_can():
    with pytest.raises(ParameterError) as error:
        use_amp(Config(dict(optim_wrapper=dict(type='OptimWrapperDict'))), 'bf16')
    assert (error.value.parameter, error.value.value) == ('optim_wrapper.type', 'OptimWrapperDict')


def test_evaluation_in_mixed_precision_needs_a_gpu(monkeypatch):
    lines = []
    monkeypatch.setattr('mmparax.utils.launch.print_log', lambda text, **_: lines.append(text))
    for device, expected, count in (('cuda', True, 0), ('cpu', False, 1)):
        monkeypatch.setattr('mmparax.utils.launch.get_device', lambda device=device: device)
        cfg = Config(dict(val_cfg=dict(type='ValLoop', fp16=True), test_cfg=dict(fp16=True)))
        evaluate_without_amp(cfg)
        assert cfg.val_cfg.fp16 == cfg.test_cfg.fp16 == expected and len(lines) == count
    for other in ({}, dict(val_cfg=None, test_cfg={}), dict(val_cfg=dict(fp16=False))):
        evaluate_without_amp(Config(other))
    assert len(lines) == 1


def test_bf16_runs_without_a_loss_scale(monkeypatch):
    """With what ``bf16`` sets, mmengine's wrapper takes the step of the loss as it is."""
    monkeypatch.setattr('mmparax.utils.launch.get_device', lambda: 'cuda')
    monkeypatch.setattr('mmengine.optim.optimizer.amp_optimizer_wrapper.is_cuda_available', lambda: True)
    cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1.))))
    use_amp(cfg, 'bf16')
    model = torch.nn.Linear(1, 1)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    before = model.bias.item()
    wrapper.update_params(model(torch.ones(1, 1)).sum())
    assert model.bias.item() == before - 1
    assert wrapper.cast_dtype is torch.bfloat16 and not wrapper.loss_scaler.is_enabled()


def test_freed_memory_is_kept_on_a_cpu_alone(monkeypatch):
    calls = []
    library = type('Library', (), dict(mallopt=staticmethod(lambda *setting: calls.append(setting) or 1)))
    monkeypatch.setattr('mmparax.utils.launch.ctypes.CDLL', lambda name: library)
    monkeypatch.setattr('mmparax.utils.launch.sys.platform', 'linux')
    assert keep_freed_memory() and calls == list(MALLOC_SETTINGS)
    monkeypatch.setattr('mmparax.utils.launch.ctypes.CDLL', lambda name: object())
    assert not keep_freed_memory()  # another C library
    monkeypatch.setattr('mmparax.utils.launch.ctypes.CDLL', lambda name: pytest.fail('called'))
    monkeypatch.setattr('mmparax.utils.launch.get_device', lambda: 'cuda')
    assert not keep_freed_memory()


def test_sync_bn_becomes_bn_everywhere():
    cfg = Config(
        dict(model=dict(norm_cfg=dict(type='SyncBN'), heads=[dict(norm_cfg=dict(
            type='MMSyncBN')), dict(type='GN')], backbone=dict(norm_cfg=dict(type='LN')))))
    assert replace_sync_bn(cfg.model) == 2
    assert cfg.model.heads[0].norm_cfg.type == cfg.model.norm_cfg.type == 'BN' and cfg.model.backbone.norm_cfg.type == 'LN'


def test_a_single_process_and_gpus_are_left_to_mmengine(monkeypatch):
    cfg = Config(dict(launcher='none', model=dict(norm_cfg=dict(type='SyncBN'))))
    prepare_processes(cfg)
    cfg.launcher = 'pytorch'
    monkeypatch.setattr('mmparax.utils.launch.get_device', lambda: 'cuda')
    prepare_processes(cfg)
    assert cfg.model.norm_cfg.type == 'SyncBN' and 'model_wrapper_cfg' not in cfg
    monkeypatch.setattr('mmparax.utils.launch.get_device', lambda: 'cpu')
    cfg.launcher = 'mpi'
    with pytest.raises(ParameterError, match='without GPUs') as error:
        prepare_processes(cfg)
    assert (error.value.parameter, error.value.value) == ('launcher', 'mpi')


@pytest.mark.parametrize('launcher, name', [('pytorch', 'RANK'), ('slurm', 'SLURM_PROCID'), ('mpi', 'OMPI_COMM_WORLD_RANK')])
def test_the_first_process_is_known_by_the_launcher_s_own_variable(launcher, name, monkeypatch):
    for other in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'):
        monkeypatch.delenv(other, raising=False)
    assert is_first_process(launcher)
    monkeypatch.setenv(name, '0')
    assert is_first_process(launcher)
    monkeypatch.setenv(name, '3')
    assert not is_first_process(launcher)
    assert is_first_process('none'), 'runs of one process each may be tasks of one job'


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh'])
@pytest.mark.parametrize('arguments', [(), ('only-one', ), ('--help', )], ids=str)
def test_shell_scripts_say_how_to_call_them(script, arguments, tmp_path):
    done = run([str(ROOT / 'tools' / script), *arguments], tmp_path)
    assert done.returncode == 2 and re.search(rf'usage: .*{script} .*CONFIG', done.stdout)


def recorded(script, arguments, tmp_path, **environment):
    """What a script would start: the words of its command, recorded by stand-ins for python and srun."""
    for name in ('python', 'srun'):
        program = tmp_path / name
        program.write_text('#!/bin/sh\nprintf "%s\\n" "$(basename $0)" "$@" "MASTER_PORT=$MASTER_PORT"\n')
        program.chmod(0o755)
    done = run([str(ROOT / 'tools' / script), *arguments], tmp_path, PATH=f'{tmp_path}:{os.environ["PATH"]}', **environment)
    assert done.returncode == 0, done.stdout
    return done.stdout.splitlines()


def test_dist_scripts_reach_several_machines(tmp_path):
    words = recorded('dist_train.sh', ['my config.py', '4', '--amp', 'bf16'], tmp_path, PYTHON='python', NNODES='2',
                     NODE_RANK='1', MASTER_ADDR='first', PORT='1234')
    for word in ('--nnodes=2', '--node_rank=1', '--nproc_per_node=4', '--master_addr=first', '--master_port=1234',
                 'my config.py'):
        assert word in words
    assert words[-6:-1] == ['my config.py', '--launcher', 'pytorch', '--amp', 'bf16']
    words = recorded('dist_test.sh', ['c.py', 'a.pth', '2', '--tta'], tmp_path, PYTHON='python')
    assert words[-6:-1] == ['c.py', 'a.pth', '--launcher', 'pytorch', '--tta'] and '--standalone' in words


def test_a_dist_script_starts_processes_that_know_of_each_other(tmp_path):
    """With torch's own launcher, and a script that needs seconds less than the real one, which `make test-full` starts."""
    for name in ('dist_train.sh', '_launch.sh'):
        shutil.copy(ROOT / 'tools' / name, tmp_path)
    (tmp_path / 'train.py').write_text("""
import os, pathlib, sys
rank = os.environ['RANK']
pathlib.Path(rank).write_text(' '.join([*sys.argv[1:], *(os.environ[name] for name in ('LOCAL_RANK', 'WORLD_SIZE'))]))
""")
    assert run([tmp_path / 'dist_train.sh', 'c.py', '2', '--amp'], tmp_path).returncode == 0
    assert [(tmp_path / rank).read_text() for rank in '01'] == [f'c.py --launcher pytorch --amp {rank} 2' for rank in '01']


def test_slurm_scripts(tmp_path):
    words = recorded('slurm_train.sh', ['gpu', 'job', 'c.py', '--resume'], tmp_path, GPUS='16', SRUN_ARGS='--time=10 --exclusive')
    for word in ('--partition=gpu', '--job-name=job', '--ntasks=16', '--gres=gpu:8', '--ntasks-per-node=8', '--time=10',
                 '--exclusive'):
        assert word in words
    port, = (int(word.split('=')[1]) for word in words if word.startswith('MASTER_PORT='))
    assert 20000 <= port < 30000, 'of this job alone: another may run on the same machine'
    assert words[-5:-1] == ['c.py', '--launcher', 'slurm', '--resume']
    words = recorded('slurm_test.sh', ['cpu', 'job', 'c.py', 'a.pth'], tmp_path, GPUS='2', GPUS_PER_NODE='0', PORT='77')
    assert not any('gres' in word for word in words) and words[-5:-1] == ['c.py', 'a.pth', '--launcher', 'slurm']
    assert 'MASTER_PORT=77' in words
