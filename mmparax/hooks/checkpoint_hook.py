"""Small checkpoints that survive a kill at any moment, and from which a run goes on bit for bit."""
import os
import re
from collections import deque
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, broadcast, get_rank, get_world_size, is_main_process
from mmengine.fileio import get_file_backend
from mmengine.fileio.backends import LocalBackend
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmparax.checkpoint.contents import drop_frozen, find_backbones_without_base_checkpoint, trim_histories
from mmparax.checkpoint.fingerprint import add_description
from mmparax.checks.loaders import get_batch_size
from mmparax.checks.optimizer import check_parameter_groups, list_optim_wrappers
from mmparax.checks.processes import check_common_start
from mmparax.checks.scheduler_states import check_states, drop_functions
from mmparax.datasets.order import get_generator_states, get_sampler, make_resumable, restore_generators
from mmparax.errors import InputError, check_choice, check_options
from mmparax.registry import HOOKS
from mmparax.utils.atomic_backend import AtomicBackend
from mmparax.utils.locks import lock_folder, unlock_folder
from mmparax.utils.modules import unwrap_model
from mmparax.utils.signatures import list_keywords
from mmparax.utils.storage import remove_parts, write
from mmparax.weights.adapter_file import get_description
from mmparax.weights.reader import read_file
from mmparax.weights.seal import SEALED

STATE = 'resume_state'  # key in a checkpoint: a list with one entry per process
SAVE = ('trainable', 'all')


def prepare_optimizer_state(state: dict[str, Any]) -> None:
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


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """mmengine's ``CheckpointHook`` for small checkpoints that survive a kill at any moment and are resumed exactly.

    - A checkpoint says by which method and on which base it was trained, and leaves the frozen base out.
    - A checkpoint is written to a temporary file, forced to the disk and renamed, then ``last_checkpoint`` the same way;
      only then are old ones removed (mmengine's hook removes first and writes in place).
    - It holds the states of the Python, NumPy, torch and GPU generators of every process, and gradients that were
      accumulated but not applied yet. Random transforms draw from generators that belong to the sample
      (:mod:`mmparax.datasets.order`), and validation leaves all of them as they were.
    - Statistics of batch norm layers are those of the first process before they are saved or used in validation.
    - The work dir belongs to one run at a time.

    On a CPU, N iterations, an interruption and M more iterations give the weights of N + M iterations, bit for bit, with
    the same number of processes. On a GPU this holds as far as the kernels are deterministic;
    ``randomness=dict(deterministic=True)`` chooses those that are, where there are any, and PyTorch warns of the others.

    Args:
        *args: of mmengine's ``CheckpointHook``.
        save: what a checkpoint holds of the model. ``'trainable'``: every trainable parameter and everything outside the
            backbone, with all buffers, but not the frozen base, which comes from ``base_checkpoint`` (without one it stays in
            the file); of the histories of logged values, what is needed to go on. ``'all'``: everything.
        **kwargs: of mmengine's ``CheckpointHook``.

    Raises:
        ParameterError: for another value of ``save``.
        InputError: if the processes of a run would start from different weights or iterations, a scheduler keeps what no
            checkpoint may hold, or the optimizer of a checkpoint that is resumed groups its parameters otherwise.
        StorageError: if a checkpoint cannot be written (the previous one is whole), or another run has the work dir.
    """

    backend_args: dict[str, Any] | None
    keep_ckpt_ids: deque
    best_ckpt_path: str | None

    def __init__(self, *args: Any, save: str = 'trainable', **kwargs: Any):
        check_options(type(self).__name__, kwargs, list_keywords(MMEngineCheckpointHook, CheckpointHook))
        super().__init__(*args, **kwargs)
        self.save = check_choice('save', save, SAVE)
        self._states: list[dict[str, Any]] | None = None  # of every process, while a checkpoint is written
        self._resumed: list[dict[str, Any]] | None = None
        self._before_val: dict[str, Any] | None = None
        self._is_exact = False  # whether the order of the data is followed
        self._is_readable = False  # whether a checkpoint of this run has been read back

    # ---- the order of the data, the generators ----

    def before_run(self, runner: Runner) -> None:
        if not isinstance(runner._train_loop, BaseLoop):
            return
        if is_main_process():
            lock_folder(runner.work_dir)
        loop = runner.train_loop
        loader = make_resumable(loop.dataloader, runner.seed, get_rank())
        self._is_exact = loader is not None
        if loader is None:
            runner.logger.warning(f'The training data come from a {type(loop.dataloader).__name__} whose order mmparax '
                                  'cannot follow: a resumed run will see other random transforms than an undisturbed one.')
            return
        loop.dataloader = loader
        self._restart_data(loop)
        if isinstance(loop, EpochBasedTrainLoop) and not self.by_epoch:
            runner.logger.warning('default_hooks.checkpoint has by_epoch=False in a run by epochs: a resumed run begins its '
                                  'epoch anew and differs from an undisturbed one.')

    def _restart_data(self, loop: BaseLoop, seed: int | None = None) -> None:
        get_sampler(loop.dataloader).restart(seed)
        if hasattr(loop, 'dataloader_iterator'):
            loop.dataloader_iterator = type(loop.dataloader_iterator)(loop.dataloader)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        if runner._resume and not get_description(checkpoint):  # PEFTHook refuses to resume from an adapter
            prepare_optimizer_state(checkpoint.get('optimizer') or {})
            check_parameter_groups(runner.optim_wrapper, checkpoint.get('optimizer') or {})
            self._resumed = checkpoint.get(STATE)
            if self._resumed is None:
                runner.logger.warning('The checkpoint was not written by mmparax.CheckpointHook: it has no state of the '
                                      'random generators, so the run goes on, but not bit for bit.')
            elif len(self._resumed) != get_world_size():
                runner.logger.warning(f'The checkpoint was written by {len(self._resumed)} process(es) and is resumed by '
                                      f'{get_world_size()}: the run goes on, but not bit for bit.')
                self._resumed = None
            self._compare_batches(runner, checkpoint)

    @staticmethod
    def _compare_batches(runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Say that a run is resumed with another batch size: it goes through the data at another pace."""
        state = (checkpoint.get(STATE) or [None])[0]
        before = state.get('batch_size') if isinstance(state, dict) else None
        now = get_batch_size(runner.train_loop.dataloader)
        if before and now and before != now:
            runner.logger.warning(
                f'The checkpoint was written with {before} images in a batch and is resumed with {now}: the run goes on, but not '
                'bit for bit, and neither the learning rate nor the number of iterations was changed with it.')

    def before_train(self, runner: Runner) -> None:
        if self.backend_args in (None, dict(backend='local')) and self.file_client_args is None:
            if type(get_file_backend(str(self.out_dir or runner.work_dir))) is LocalBackend:
                self.backend_args = dict(backend=SEALED)
        self._check_kept(runner)
        super().before_train(runner)
        if isinstance(self.file_backend, AtomicBackend):
            self.file_backend.is_own = self._is_own
        self._find_best_here()
        if isinstance(self.file_backend, AtomicBackend) and is_main_process():
            remove_parts(self.out_dir)
            remove_parts(runner.work_dir)
        if self._resumed is not None:
            self._restore(runner, self._resumed[get_rank()])
            self._resumed = None
        check_states(runner.param_schedulers)
        model = unwrap_model(runner.model)
        check_common_start(model, runner.iter)
        if self.save == 'trainable' and find_backbones_without_base_checkpoint(model):
            runner.logger.info('Checkpoints hold the frozen base, too: it did not come from a base_checkpoint and exists '
                               'nowhere else.')
        if torch.are_deterministic_algorithms_enabled():
            # mmengine's switch makes errors of operations without such a kernel, the loss of segmentation among them.
            torch.use_deterministic_algorithms(True, warn_only=True)

    # ---- names from a checkpoint that is resumed: never a path to remove ----

    @staticmethod
    def _check_kept(runner: Runner) -> None:
        """Refuse numbers of checkpoints to remove that are no numbers."""
        kept = runner.message_hub.runtime_info.get('keep_ckpt_ids', [])
        if not isinstance(kept, (list, tuple)) or not all(type(step) is int and step >= 0 for step in kept):
            raise InputError(f'the checkpoint that is resumed has message_hub.runtime_info.keep_ckpt_ids={kept!r}, where numbers '
                             'of iterations or epochs belong: it is damaged or made to harm. Resume from another one.')

    def _is_own(self, path: str) -> bool:
        """Whether a path is a checkpoint that this hook wrote: its folder, its pattern of names, a file and no link."""
        stem = r'\d+'.join(map(re.escape, re.split(r'\{[^}]*\}', self.filename_tmpl)))
        return os.path.realpath(os.path.dirname(path)) == os.path.realpath(self.out_dir) and os.path.isfile(path) \
            and not os.path.islink(path) and re.fullmatch(f'(best_[^/]*_)?{stem}', os.path.basename(path)) is not None

    def _find_best_here(self) -> None:
        """Look for the best checkpoint of a resumed run in its own folder: the run may be a copy of another one."""

        def localize(path: Any) -> str | None:
            own = self.file_backend.join_path(self.out_dir, os.path.basename(str(path)))
            return own if path and (not isinstance(self.file_backend, AtomicBackend) or self._is_own(own)) else None

        if hasattr(self, 'best_ckpt_path'):
            self.best_ckpt_path = localize(self.best_ckpt_path)
        for name, path in getattr(self, 'best_ckpt_path_dict', {}).items():
            self.best_ckpt_path_dict[name] = localize(path)

    def before_train_epoch(self, runner: Runner) -> None:
        if self._is_exact and isinstance(runner.train_loop, EpochBasedTrainLoop):
            get_sampler(runner.train_loop.dataloader).run_epoch = runner.epoch

    def after_run(self, runner: Runner) -> None:
        unlock_folder(runner.work_dir)

    def _get_state(self, runner: Runner) -> dict[str, Any]:
        loop, wrapper = runner.train_loop, runner.optim_wrapper
        state = dict(generators=self._before_val or get_generator_states(), seed=runner.seed, sampler_seed=None, gradients={},
                     batch_size=get_batch_size(loop.dataloader))
        if self._is_exact:
            sampler = get_sampler(loop.dataloader)
            state.update(seed=sampler.prefix[0], sampler_seed=getattr(sampler, 'seed', None))
        if any(part._inner_count % part._accumulative_counts for part in list_optim_wrappers(wrapper)):
            state['gradients'] = {
                name: parameter.grad.cpu() for name, parameter in unwrap_model(runner.model).named_parameters()
                if parameter.grad is not None
            }
        return state

    def _restore(self, runner: Runner, state: dict[str, Any]) -> None:
        if self._is_exact:
            get_sampler(runner.train_loop.dataloader).prefix = (state['seed'], get_rank())
            self._restart_data(runner.train_loop, state['sampler_seed'])
        parameters = dict(unwrap_model(runner.model).named_parameters())
        for name, gradient in state['gradients'].items():
            parameters[name].grad = gradient.to(parameters[name].device)
        restore_generators(state['generators'])

    def before_val(self, runner: Runner) -> None:
        self._before_val = get_generator_states()

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

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        model = unwrap_model(runner.model)
        add_description(checkpoint, model)
        if 'param_schedulers' in checkpoint:
            checkpoint['param_schedulers'] = drop_functions(checkpoint['param_schedulers'])
        if 'optimizer' in checkpoint and self._states is not None:
            checkpoint[STATE] = self._states
        if self.save == 'trainable':
            drop_frozen(checkpoint, model)  # hooks of moving averages, which need every name that they know, ran before
            trim_histories(checkpoint['message_hub'], runner.log_processor)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        outdated: list[int] = []
        if self.max_keep_ckpts > 0:
            ids = [known for known in self.keep_ckpt_ids if known != step] + [step]
            outdated, latest = ids[:-self.max_keep_ckpts], ids[-self.max_keep_ckpts:]
            # The file names the outdated ones too: after a kill before their removal, the resumed run removes them.
            runner.message_hub.update_info('keep_ckpt_ids', ids)
            self.keep_ckpt_ids = deque(latest, self.max_keep_ckpts)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        self._share_statistics(runner.model)
        self._states = all_gather_object(self._get_state(runner))
        runner.save_checkpoint(self.out_dir, name, self.file_client_args, save_optimizer=self.save_optimizer,
                               save_param_scheduler=self.save_param_scheduler, meta=meta, by_epoch=self.by_epoch,
                               backend_args=self.backend_args, **self.args)
        self._states = None
        if not is_main_process():
            return
        if not self._is_readable and isinstance(self.file_backend, AtomicBackend):
            read_file(self.last_ckpt)  # now, rather than when it is needed: it may hold what is refused as unsafe
            self._is_readable = True
        write(Path(runner.work_dir) / 'last_checkpoint', str(self.last_ckpt).encode())
        for step in outdated:
            path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step))
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, float]) -> None:
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
        current = {
            str(path) for path in [getattr(self, 'best_ckpt_path', None), *getattr(self, 'best_ckpt_path_dict', {}).values()]
        }
        for path in postponed:
            if path not in current and os.path.isfile(path):
                backend.remove(path)
