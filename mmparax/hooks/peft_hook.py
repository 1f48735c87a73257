"""Tells what trains, and stops a run that would train the wrong thing."""
from typing import Any, Callable, Dict, Optional

from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner
from torch import nn

from mmparax.backbones.parameters import count_parameters
from mmparax.checkpoint.compatibility import keep_fitting_head
from mmparax.checkpoint.contents import backbones_without_base_file, drop_frozen, trim_histories
from mmparax.checkpoint.fingerprint import stamp
from mmparax.checkpoint.mmengine_loading import FRESH_HEAD
from mmparax.checks import model as model_checks
from mmparax.checks import run as run_checks
from mmparax.errors import ParameterError, check_choice
from mmparax.hooks.checkpoint_hook import CheckpointHook
from mmparax.registry import HOOKS
from mmparax.utils.modules import unwrap_model
from mmparax.utils.text import listed
from mmparax.weights.adapter_file import Verified, description
from mmparax.weights.claims import CLAIM

SAVE = ('trained', 'all')


class FirstLook(Hook):
    """Lets :class:`PEFTHook`, which comes last elsewhere, judge a checkpoint before hooks of moving averages copy from it."""
    priority = 'HIGHEST'

    def __init__(self, judge: Callable[[Runner, Dict[str, Any]], None]):
        self._judge = judge

    def after_load_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        self._judge(runner, checkpoint)


@HOOKS.register_module()
class PEFTHook(Hook):
    """Logs what trains, writes it into every checkpoint, and checks the run.

    Before training: ``adapter`` of the config is the model's; the backbone gives the maps that neck and heads take; the
    heads are for the classes of the data; the checkpoint of ``load_from`` or a resumed run has this method and base;
    synchronised batch norm has its GPUs; what trains is in the optimizer. It warns when the checkpoint
    hook is not mmparax's and when the batch is not the recipe's. At the first optimizer step that is taken (with mixed
    precision: the first that the loss scaler accepts): every parameter that trains has a finite gradient. Before every
    validation and save and after every epoch, by version counters, and at the end, byte by byte: the frozen base is
    unchanged.

    Args:
        save: what a checkpoint holds of the model. ``'trained'``: all that trains and everything outside the backbone, with
            all buffers, but not the frozen base, which comes from ``base_checkpoint`` (without one it stays in the file);
            of the histories of logged values, what is needed to go on. ``'all'``: everything.

    Raises:
        InputError: for a config or checkpoint that does not fit, or a wrong argument.
        TrainingError: naming the first parameter without a finite gradient, or that is frozen and changed.
    """
    priority = 'VERY_LOW'  # after the hooks of moving averages, which need every name that they know

    def __init__(self, save: str = 'trained'):
        self.save = check_choice('save', save, SAVE)
        self._watch: Optional[run_checks.FrozenWatch] = None

    # ---- before training ----

    def before_run(self, runner: Runner) -> None:
        if runner.cfg.get('activation_checkpointing'):
            raise ParameterError('activation_checkpointing', runner.cfg.activation_checkpointing, "mmengine's recomputation loses "
                            'the gradients of adapters behind a frozen stem', 'Use model.backbone.with_cp=True.')
        model = unwrap_model(runner.model)
        model_checks.check_features(model)
        for name in ('train', 'val', 'test'):
            loop = getattr(runner, f'_{name}_loop')
            if isinstance(loop, BaseLoop):  # those of this run; the others are configs
                metainfo = getattr(loop.dataloader.dataset, 'metainfo', None) or {}
                model_checks.check_class_counts(model, metainfo, f'{name}_dataloader.dataset')
        if not any(isinstance(hook, FirstLook) for hook in runner.hooks):
            # A new list: the runner is walking over the old one, in which every hook would move on by one place.
            runner._hooks = [FirstLook(self._judge), *runner._hooks]

    def after_load_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        if not any(isinstance(hook, FirstLook) for hook in runner.hooks):  # loaded by hand, before the run
            self._judge(runner, checkpoint)

    def _judge(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        source = str(runner._load_from or runner.cfg.get('load_from') or 'the latest checkpoint')
        training = runner._train_loop is not None and not isinstance(runner._train_loop, dict)
        if training and runner._resume:
            run_checks.check_resumable(checkpoint, source)
        model = unwrap_model(runner.model)
        run_checks.check_origin(model, checkpoint, source, training and not runner._resume)
        if training and description(checkpoint):
            self._start_from_adapter(runner, model, checkpoint, source)

    @staticmethod
    def _start_from_adapter(runner: Runner, model: nn.Module, checkpoint: Dict[str, Any], source: str) -> None:
        """Let a training begin with another head than the file's."""
        weights = checkpoint['state_dict']
        weights._metadata[CLAIM] = Verified(weights._metadata[CLAIM], **{FRESH_HEAD: True})
        kept, fresh = keep_fitting_head(model, weights)
        if fresh:
            runner.logger.warning(f'{source!r} gives the adapter and {len(kept)} tensors of the head; the others start fresh: '
                                  f'{listed(fresh)}.')

    def before_train(self, runner: Runner) -> None:
        model = unwrap_model(runner.model)
        runner.logger.info('\n%s', count_parameters(model).table())
        loader = runner.train_dataloader
        batch = getattr(loader, 'batch_size', None) or getattr(getattr(loader, 'batch_sampler', None), 'batch_size', None)
        if batch:
            schedule = run_checks.schedule_of(runner.cfg, batch, runner.optim_wrapper)
            runner.logger.info(schedule.text())
            if schedule.warning():
                runner.logger.warning('Note: %s', schedule.warning())
        run_checks.check_sync_norms(model)
        run_checks.check_optimized(model, runner.optim_wrapper)
        stock = [hook for hook in runner.hooks
                 if isinstance(hook, MMEngineCheckpointHook) and not isinstance(hook, CheckpointHook)]
        if stock:
            runner.logger.warning("Checkpoints are written by mmengine's CheckpointHook: a kill while it writes loses the "
                                  "last one, and a resumed run differs from an undisturbed one. Use type='mmparax."
                                  "CheckpointHook' in default_hooks.checkpoint.")
        if runner.iter >= runner.max_iters:
            runner.logger.info('The run is at iteration %d of %d: nothing is left to do.', runner.iter, runner.max_iters)
        if self.save == 'trained' and backbones_without_base_file(model):
            runner.logger.info('Checkpoints hold the frozen base, too: it did not come from a base_checkpoint and exists '
                               'nowhere else.')
        self._watch = run_checks.FrozenWatch(model)
        if self._watch.fingerprint:
            runner.logger.info('Fingerprint of the frozen base: %s', self._watch.fingerprint)
        self._check_first_step(runner, model)

    # ---- while training ----

    @staticmethod
    def _check_first_step(runner: Runner, model: nn.Module) -> None:
        wrapper_cfg = runner.cfg.get('model_wrapper_cfg') or {}
        allowed = bool(runner.cfg.get('find_unused_parameters') or wrapper_cfg.get('find_unused_parameters'))

        def judge(found: run_checks.Gradients) -> None:
            run_checks.check_gradients(found, allowed)
            text = f'First step: all {found.count} parameters that train have a finite gradient'
            if found.zero:
                text += f'; {listed(found.zero)} exactly zero, which is normal for some methods'
            runner.logger.info(text + '.')

        for wrapper in run_checks.single_wrappers(runner.optim_wrapper):
            run_checks.watch_first_step(wrapper.optimizer, model, judge)

    def _check_frozen(self, when: str) -> None:
        if self._watch is not None:
            self._watch.check(when)

    def before_val_epoch(self, runner: Runner) -> None:
        self._check_frozen(f'by iteration {runner.iter}')

    def after_train_epoch(self, runner: Runner) -> None:
        self._check_frozen(f'by iteration {runner.iter}')

    def before_save_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        self._check_frozen(f'by iteration {runner.iter}')
        stamp(checkpoint, unwrap_model(runner.model))
        if self.save == 'trained':
            drop_frozen(checkpoint, unwrap_model(runner.model))
            trim_histories(checkpoint['message_hub'], runner.log_processor)

    def after_train(self, runner: Runner) -> None:
        if self._watch is not None:
            self._watch.check_bytes(unwrap_model(runner.model))
            if self._watch.fingerprint:
                runner.logger.info('The frozen base is unchanged, byte by byte.')
