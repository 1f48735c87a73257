"""Checkpoints that survive a kill at any moment, and from which a run goes on bit for bit."""
import os
from collections import deque
from pathlib import Path
from typing import Any, Dict, List, Optional

import torch
from mmengine.dist import all_gather_object, broadcast, get_rank, get_world_size, is_main_process
from mmengine.fileio import get_file_backend
from mmengine.fileio.backends import LocalBackend
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmparax.checkpoint.fingerprint import stamp
from mmparax.checks.run import single_wrappers
from mmparax.datasets.order import generator_states, placed_sampler, restore_generators, resumable
from mmparax.errors import InputError
from mmparax.registry import HOOKS
from mmparax.utils.locks import lock_folder, unlock_folder
from mmparax.utils.modules import unwrap_model
from mmparax.utils.storage import ATOMIC, AtomicBackend, remove_parts, write
from mmparax.weights.adapter_file import description
from mmparax.weights.digest import digest
from mmparax.weights.reader import read_file

STATE = 'resume_state'  # key in a checkpoint: a list with one entry per process


def prepare_optimizer_state(state: Dict[str, Any]) -> None:
    """Make the state of an optimizer wrapper, or of a dict of several, fit for the one that loads it, in place.

    mmengine loads it onto the GPU, where the counts of steps would make every step of a plain optimizer wait for the device,
    twice for each tensor. The empty state of a loss scaler that was off is refused by one that is on.
    """
    for part in (state, *(value for value in state.values() if isinstance(value, dict))):
        if not part.get('loss_scaler', True):
            part.pop('loss_scaler')
        for of_parameter in part.get('state', {}).values():
            if isinstance(of_parameter, dict) and isinstance(of_parameter.get('step'), Tensor):
                of_parameter['step'] = of_parameter['step'].cpu()  # fused optimizers move it back themselves


def check_groups(wrapper: Any, state: Dict[str, Any]) -> None:
    """Raise if the optimizer of a checkpoint groups its parameters otherwise than that of the run."""
    several = isinstance(wrapper, OptimWrapperDict)
    for part, own in [(part, state.get(name, {})) for name, part in wrapper.items()] if several else [(wrapper, state)]:
        found, wanted = ([len(group['params']) for group in groups]
                         for groups in (own.get('param_groups', []), part.optimizer.param_groups))
        if found and found != wanted:
            raise InputError(
                f'the checkpoint cannot be resumed: its optimizer has {sum(found)} tensors in {len(found)} group(s), that of '
                f'this run {sum(wanted)} in {len(wanted)}. It was written with other settings, or by an earlier mmparax or '
                "mmengine's constructor, which make a group of every tensor; load_from starts from its weights alone.")


def check_common_start(runner: Runner) -> None:
    """Raise in every process if one starts elsewhere: gradients are shared from here on, weights no more."""
    if get_world_size() == 1:
        return
    trained = ((name, value) for name, value in unwrap_model(runner.model).named_parameters() if value.requires_grad)
    starts = all_gather_object((runner.iter, digest(trained)))
    for rank, (iteration, weights) in enumerate(starts):
        if (iteration, weights) != starts[0]:
            what = f'at iteration {iteration}' if iteration != starts[0][0] else 'with other weights'
            raise InputError(f'process 0 starts at iteration {starts[0][0]}, and process {rank} {what}: they would train '
                                 'different models. Every machine needs the same files: put the work dir on a file system '
                                 'that they share, or give --resume, or load_from, a checkpoint that each of them has.')


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """mmengine's ``CheckpointHook`` with the same arguments, safe against kills and exact on resuming.

    - A checkpoint is written to a temporary file, forced to the disk and renamed, then ``last_checkpoint`` the same way;
      only then are old ones removed (mmengine removes first and writes in place).
    - It holds the states of the Python, NumPy, torch and GPU generators of every process, and gradients that were
      accumulated but not applied yet. Random transforms draw from generators that belong to the sample (see
      ``data_order``), and validation leaves all of them as they were.
    - Statistics of batch norm layers are those of the first process before they are saved or used in validation.
    - The work dir belongs to one run at a time.

    On a CPU, N iterations, an interruption and M more iterations give the weights of N + M iterations, bit for bit, with
    the same number of processes. On a GPU this holds as far as the kernels are deterministic;
    ``randomness=dict(deterministic=True)`` chooses those that are, where there are any, and PyTorch warns of the others.

    Raises:
        InputError: if the processes of a run would start from different weights or iterations, or the optimizer of a
            checkpoint that is resumed groups its parameters otherwise.
        StorageError: if a checkpoint cannot be written (the previous one is whole), or another run has the work dir.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._states: Optional[List[Dict[str, Any]]] = None  # of every process, while a checkpoint is written
        self._resumed: Optional[List[Dict[str, Any]]] = None
        self._before_val: Optional[Dict[str, Any]] = None
        self._exact = False
        self._readable = False  # whether a checkpoint of this run has been read back

    # ---- the order of the data, the generators ----

    def before_run(self, runner: Runner) -> None:
        if not isinstance(runner._train_loop, BaseLoop):
            return
        if is_main_process():
            lock_folder(runner.work_dir)
        loop = runner.train_loop
        loader = resumable(loop.dataloader, runner.seed, get_rank())
        self._exact = loader is not None
        if loader is None:
            runner.logger.warning(f'The training data come from a {type(loop.dataloader).__name__} whose order mmparax '
                                  'cannot follow: a resumed run will see other random transforms than an undisturbed one.')
            return
        loop.dataloader = loader
        self._restart_data(loop)
        if isinstance(loop, EpochBasedTrainLoop) and not self.by_epoch:
            runner.logger.warning('default_hooks.checkpoint has by_epoch=False in a run by epochs: a resumed run begins its '
                                  'epoch anew and differs from an undisturbed one.')

    def _restart_data(self, loop: BaseLoop, seed: Optional[int] = None) -> None:
        placed_sampler(loop.dataloader).restart(seed)
        if hasattr(loop, 'dataloader_iterator'):
            loop.dataloader_iterator = type(loop.dataloader_iterator)(loop.dataloader)

    def after_load_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        if runner._resume and not description(checkpoint):  # PEFTHook refuses to resume from an adapter
            prepare_optimizer_state(checkpoint.get('optimizer') or {})
            check_groups(runner.optim_wrapper, checkpoint.get('optimizer') or {})
            self._resumed = checkpoint.get(STATE)
            if self._resumed is None:
                runner.logger.warning('The checkpoint was not written by mmparax.CheckpointHook: it has no state of the '
                                      'random generators, so the run goes on, but not bit for bit.')
            elif len(self._resumed) != get_world_size():
                runner.logger.warning(f'The checkpoint was written by {len(self._resumed)} process(es) and is resumed by '
                                      f'{get_world_size()}: the run goes on, but not bit for bit.')
                self._resumed = None

    def before_train(self, runner: Runner) -> None:
        if self.backend_args in (None, dict(backend='local')) and self.file_client_args is None:
            if type(get_file_backend(str(self.out_dir or runner.work_dir))) is LocalBackend:
                self.backend_args = dict(backend=ATOMIC)
        super().before_train(runner)
        if isinstance(self.file_backend, AtomicBackend) and is_main_process():
            remove_parts(self.out_dir)
            remove_parts(runner.work_dir)
        if self._resumed is not None:
            self._restore(runner, self._resumed[get_rank()])
            self._resumed = None
        check_common_start(runner)
        if torch.are_deterministic_algorithms_enabled():
            # mmengine's switch makes errors of operations without such a kernel, the loss of segmentation among them.
            torch.use_deterministic_algorithms(True, warn_only=True)

    def before_train_epoch(self, runner: Runner) -> None:
        if self._exact and isinstance(runner.train_loop, EpochBasedTrainLoop):
            placed_sampler(runner.train_loop.dataloader).run_epoch = runner.epoch

    def after_run(self, runner: Runner) -> None:
        unlock_folder(runner.work_dir)

    def _state(self, runner: Runner) -> Dict[str, Any]:
        loop, wrapper = runner.train_loop, runner.optim_wrapper
        state = dict(generators=self._before_val or generator_states(), seed=runner.seed, sampler_seed=None, gradients={})
        if self._exact:
            sampler = placed_sampler(loop.dataloader)
            state.update(seed=sampler.base[0], sampler_seed=getattr(sampler, 'seed', None))
        if any(part._inner_count % part._accumulative_counts for part in single_wrappers(wrapper)):
            state['gradients'] = {name: parameter.grad.cpu() for name, parameter in unwrap_model(runner.model).named_parameters()
                                  if parameter.grad is not None}
        return state

    def _restore(self, runner: Runner, state: Dict[str, Any]) -> None:
        if self._exact:
            placed_sampler(runner.train_loop.dataloader).base = (state['seed'], get_rank())
            self._restart_data(runner.train_loop, state['sampler_seed'])
        parameters = dict(unwrap_model(runner.model).named_parameters())
        for name, gradient in state['gradients'].items():
            parameters[name].grad = gradient.to(parameters[name].device)
        restore_generators(state['generators'])

    def before_val(self, runner: Runner) -> None:
        self._before_val = generator_states()

    def before_val_epoch(self, runner: Runner) -> None:
        self._share_statistics(runner.model)

    def after_val(self, runner: Runner) -> None:
        # A resumed run does not repeat the validation that an undisturbed one had here.
        restore_generators(self._before_val)
        self._before_val = None

    @staticmethod
    def _share_statistics(model: nn.Module) -> None:
        """Give every process the batch norm statistics of the first one: the model that is evaluated is the saved one."""
        if get_world_size() > 1:
            for module in model.modules():
                if isinstance(module, _BatchNorm) and module.running_mean is not None:
                    broadcast(module.running_mean)
                    broadcast(module.running_var)

    # ---- writing ----

    def before_save_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        stamp(checkpoint, unwrap_model(runner.model))
        if 'optimizer' in checkpoint and self._states is not None:
            checkpoint[STATE] = self._states

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: Dict[str, Any]) -> None:
        outdated: List[int] = []
        if self.max_keep_ckpts > 0:
            ids = [kept for kept in self.keep_ckpt_ids if kept != step] + [step]
            outdated, kept = ids[:-self.max_keep_ckpts], ids[-self.max_keep_ckpts:]
            # The file names the outdated ones too: after a kill before their removal, the resumed run removes them.
            runner.message_hub.update_info('keep_ckpt_ids', ids)
            self.keep_ckpt_ids = deque(kept, self.max_keep_ckpts)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        self._share_statistics(runner.model)
        self._states = all_gather_object(self._state(runner))
        runner.save_checkpoint(self.out_dir, name, self.file_client_args, save_optimizer=self.save_optimizer,
                               save_param_scheduler=self.save_param_scheduler, meta=meta, by_epoch=self.by_epoch,
                               backend_args=self.backend_args, **self.args)
        self._states = None
        if not is_main_process():
            return
        if not self._readable and isinstance(self.file_backend, AtomicBackend):
            read_file(self.last_ckpt)  # now, rather than when it is needed: it may hold what is refused as unsafe
            self._readable = True
        write(Path(runner.work_dir) / 'last_checkpoint', str(self.last_ckpt).encode())
        for step in outdated:
            path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step))
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)

    def _save_best_checkpoint(self, runner: Runner, metrics: Dict[str, float]) -> None:
        backend = getattr(self, 'file_backend', None)
        if not self.save_best or backend is None:  # evaluation alone saves nothing
            return
        if not isinstance(backend, AtomicBackend):
            return super()._save_best_checkpoint(runner, metrics)
        backend.postponed = []
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            postponed, backend.postponed = backend.postponed, None
        current = {str(path) for path in [getattr(self, 'best_ckpt_path', None),
                                          *getattr(self, 'best_ckpt_path_dict', {}).values()]}
        for path in postponed:
            if path not in current and os.path.isfile(path):
                backend.remove(path)
