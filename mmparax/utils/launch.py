"""Several processes and mixed precision: what a run needs of the machine, and what it does where there is no GPU."""
import ctypes
import logging
import os
import subprocess
import sys
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_distributed
from mmengine.logging import print_log

from mmparax.errors import InputError, ParameterError

# glibc's M_MMAP_THRESHOLD (the largest value that it takes), M_TRIM_THRESHOLD and M_TOP_PAD, in bytes.
MALLOC_SETTINGS = ((-3, 2**25), (-1, 2**31 - 1), (-2, 2**26))
# What a launcher sets for each process, without which the processes cannot meet, and how a run is started by it.
ENVIRONMENTS = dict(
    pytorch=(('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'), "torch's launcher (torchrun)",
             'tools/dist_train.sh CONFIG GPUS'),
    slurm=(('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'), 'Slurm (srun)', 'tools/slurm_train.sh PARTITION JOB CONFIG'),
    mpi=(('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'), 'mpirun', 'mpirun -np GPUS'))
SYNC_BN = ('SyncBN', 'MMSyncBN')


def keep_freed_memory() -> bool:
    """Let the process keep the memory that it frees on a CPU, rather than return and fetch it in every step.

    glibc hands large blocks back to the system at once, and each new one costs a fault a page: a tenth of a training step.
    The peak of the memory stays the same. With a GPU, or another C library, nothing is done.

    Returns:
        bool: whether the C library took the settings.
    """
    if get_device() != 'cpu' or not sys.platform.startswith('linux'):
        return False
    library = ctypes.CDLL(None)
    taken = [library.mallopt(*setting) for setting in MALLOC_SETTINGS] if hasattr(library, 'mallopt') else [0]
    return all(taken)


def check_launcher(launcher: str) -> None:
    """Check that this process was started by the launcher that it is told of.

    Args:
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.

    Raises:
        ParameterError: naming the variables that it would have set.
    """
    if launcher not in ENVIRONMENTS:
        return
    variables, program, command = ENVIRONMENTS[launcher]
    absent = [name for name in variables if name not in os.environ]
    if absent:
        raise ParameterError('launcher', launcher,
                             f'this process was not started by {program}, which would have set {", ".join(absent)}',
                             f'Start the run by {command}, or leave the launcher out for a single process.')


def prepare_processes(cfg: Config) -> None:
    """Make a run of several processes possible without GPUs: gloo instead of nccl, BN instead of SyncBN.

    Does nothing for a single process and where there is an accelerator: mmengine does all that is needed there.

    Args:
        cfg: changed in place.
    """
    if cfg.launcher == 'none' or get_device() != 'cpu':
        return
    if cfg.launcher == 'slurm':
        _read_slurm_environment()
    elif cfg.launcher != 'pytorch':
        raise ParameterError('launcher', cfg.launcher, "without GPUs it must be 'pytorch' or 'slurm'")
    if not is_distributed():
        torch.distributed.init_process_group('gloo')
    wrapper = cfg.get('model_wrapper_cfg') or dict(type='MMDistributedDataParallel', broadcast_buffers=False,
                                                   find_unused_parameters=cfg.get('find_unused_parameters', False))
    cfg.model_wrapper_cfg = dict(wrapper, device_ids=None)
    count = replace_sync_bn(cfg.model)
    cfg.pop('sync_bn', None)
    print_log(
        f'No GPU: {torch.distributed.get_world_size()} process(es) on the CPU, which meet by gloo.' +
        (f' SyncBN became BN in {count} place(s) of the config: statistics are those of each process.' if count else ''),
        logger='current', level=logging.WARNING)


def replace_sync_bn(config: Any) -> int:
    """Turn every SyncBN of a config into BN, in place; return how many there were."""
    if isinstance(config, dict):
        found = config.get('type') in SYNC_BN
        if found:
            config['type'] = 'BN'
        return found + sum(replace_sync_bn(value) for value in config.values())
    if isinstance(config, (list, tuple)):
        return sum(replace_sync_bn(value) for value in config)
    return 0


def _read_slurm_environment() -> None:
    """Set what torch reads from what Slurm sets, as mmengine does where there are GPUs."""
    environment = os.environ
    if 'MASTER_ADDR' not in environment:
        nodes = environment['SLURM_NODELIST']
        environment['MASTER_ADDR'] = subprocess.check_output(['scontrol', 'show', 'hostname', nodes], text=True).split()[0]
    environment.setdefault('MASTER_PORT', '29500')
    environment.update(RANK=environment['SLURM_PROCID'], WORLD_SIZE=environment['SLURM_NTASKS'],
                       LOCAL_RANK=environment.get('SLURM_LOCALID', '0'))


def use_amp(cfg: Config, precision: str | None) -> None:
    """Turn mixed precision on if asked to, and off, saying so, on a machine without a GPU.

    Args:
        cfg: changed in place; its ``optim_wrapper`` may ask for mixed precision already.
        precision: ``'fp16'`` (dynamic loss scale), ``'bf16'`` (no loss scale: its range is that of fp32), or None for what
            the config says.

    Raises:
        ParameterError: if the config's optimizer wrapper is of a kind that cannot.
        InputError: if the GPU has no bf16.
    """
    wrapper = cfg.optim_wrapper
    kind = wrapper.get('type', 'OptimWrapper')
    if precision and kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise ParameterError('optim_wrapper.type', kind, "mixed precision needs 'OptimWrapper' or 'AmpOptimWrapper'")
    if precision == 'fp16':
        wrapper.update(type='AmpOptimWrapper', dtype='float16')
        scale = wrapper.get('loss_scale', 'dynamic')
        wrapper.loss_scale = 'dynamic' if isinstance(scale, dict) and not scale.get('enabled', True) else scale
    elif precision == 'bf16':
        wrapper.update(type='AmpOptimWrapper', dtype='bfloat16', loss_scale=dict(enabled=False))
    if wrapper.get('type') != 'AmpOptimWrapper':
        return
    if get_device() == 'cpu':
        wrapper.type = 'OptimWrapper'
        for name in ('loss_scale', 'dtype', 'use_fp64'):
            wrapper.pop(name, None)
        print_log('Mixed precision needs a GPU and there is none: running in single precision.', logger='current',
                  level=logging.WARNING)
    elif wrapper.get('dtype') == 'bfloat16' and torch.cuda.is_available() and not torch.cuda.is_bf16_supported(
            including_emulation=False):
        raise InputError('bf16 needs a GPU that has it (NVIDIA: Ampere or newer); use fp16.')


def evaluate_without_amp(cfg: Config) -> None:
    """Turn mixed precision in evaluation (``fp16=True``) off, saying so, on a machine without a GPU.

    Args:
        cfg: changed in place: ``val_cfg`` and ``test_cfg``.
    """
    if get_device() != 'cpu':
        return
    loops = [cfg[name] for name in ('val_cfg', 'test_cfg') if (cfg.get(name) or {}).get('fp16')]
    for loop in loops:
        loop.fp16 = False
    if loops:
        print_log('Evaluation in mixed precision needs a GPU and there is none: evaluating in single precision.',
                  logger='current', level=logging.WARNING)
