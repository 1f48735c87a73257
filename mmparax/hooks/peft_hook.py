"""Says what is trainable, and stops a run that would train the wrong thing."""
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.hooks import Hook, LoggerHook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import BaseLoop, Runner
from torch import nn

from mmparax.adapters.adaroute import AdaRouteAdapter
from mmparax.backbones.parameters import count_parameters
from mmparax.checks.checkpoint import check_origin, check_resumable, let_head_start_fresh
from mmparax.checks.frozen import FrozenWatch
from mmparax.checks.gradients import FirstSteps, Gradients, describe_silent_heads, watch_first_step
from mmparax.checks.ignored import find_ignored_values
from mmparax.checks.loaders import check_batches, get_batch_size
from mmparax.checks.losses import check_input_size, check_losses
from mmparax.checks.model import check_class_counts, check_features, check_sync_norms
from mmparax.checks.norms import NormWatch, count_images, count_last_batch
from mmparax.checks.optimizer import check_optimizer, list_optim_wrappers
from mmparax.checks.pipeline_errors import name_pipeline_errors
from mmparax.checks.rates import describe_multipliers
from mmparax.checks.schedule import read_schedule
from mmparax.checks.schedulers import describe_schedulers
from mmparax.checks.validation import check_mixed_sizes, check_monitored, explain_batches
from mmparax.errors import ParameterError, TrainingError, check_options
from mmparax.hooks.checkpoint_hook import CheckpointHook
from mmparax.ops.dispatch import describe_backend
from mmparax.registry import HOOKS
from mmparax.utils.modules import unwrap_model
from mmparax.utils.text import summarize_names

LOG_INTERVAL = 10  # iterations, if nothing logs


@HOOKS.register_module()
class PEFTHook(Hook):
    """Logs what is trainable and what runs AdaRoute's operations, and checks the run; it changes no file.

    Before training: the backbone gives the maps that neck and heads take; the heads and their losses are for the classes and
    values of the data; there are batches, and those of the validation can be put together; the checkpoint of ``load_from`` or
    a resumed run has this method and base; synchronised batch norm has its GPUs; every trainable parameter is in the
    optimizer. It warns when the checkpoint hook is not mmparax's, when the batch size is not the recipe's, when adapters have
    another learning rate than the head, and when a scheduler does not fit the length of the run. In the first iteration: no
    batch norm sees a single value. At the first optimizer step that is taken (with mixed precision: the first that the loss
    scaler accepts): every trainable parameter has a finite gradient, and in one of the first steps some of them are not zero.
    Before every validation and save and after every epoch, by version counters, and at the end, byte by byte: the frozen base
    is unchanged. At every log interval and in the last iteration: the loss is finite. At every validation: its metrics are
    those by which the run chooses its best checkpoint.

    Raises:
        ParameterError: for an option; it has none.
        InputError: for a config, a checkpoint or data that do not fit.
        TrainingError: naming the first parameter without a finite gradient, or that is frozen and changed; if nothing is
            learned.
    """
    priority = 'HIGHEST'  # a checkpoint is judged before hooks of moving averages copy from it

    def __init__(self, **options: Any):
        if 'save' in options:
            raise ParameterError(
                'save', options['save'], 'PEFTHook only checks, and what a checkpoint holds is set by '
                'default_hooks.checkpoint.save, of mmparax.CheckpointHook')
        check_options(type(self).__name__, options, ())
        self._watch: FrozenWatch | None = None
        self._norms: NormWatch | None = None
        self._first_steps: list[FirstSteps] = []
        self._lost = 0  # log intervals in a row whose loss is not finite

    # ---- before training ----

    def before_run(self, runner: Runner) -> None:
        if runner.cfg.get('activation_checkpointing'):
            raise ParameterError('activation_checkpointing', runner.cfg.activation_checkpointing,
                                 "mmengine's recomputation loses the gradients of adapters behind a frozen stem",
                                 'Use model.backbone.with_cp=True.')
        model = unwrap_model(runner.model)
        check_features(model)
        if isinstance(runner._train_loop, BaseLoop):
            check_losses(model, runner.cfg)
        for name in ('train', 'val', 'test'):
            loop = getattr(runner, f'_{name}_loop')
            if isinstance(loop, BaseLoop):  # those of this run; the others are configs
                metainfo = getattr(loop.dataloader.dataset, 'metainfo', None) or {}
                check_class_counts(model, metainfo, f'{name}_dataloader.dataset')
                ignored = find_ignored_values(runner.cfg, 'train_dataloader') if name == 'train' else None
                name_pipeline_errors(loop.dataloader.dataset, f'{name}_dataloader.dataset', ignored)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        source = str(runner._load_from or runner.cfg.get('load_from') or 'the latest checkpoint')
        training = runner._train_loop is not None and not isinstance(runner._train_loop, dict)
        if training and runner._resume:
            check_resumable(checkpoint, source)
        model = unwrap_model(runner.model)
        check_origin(model, checkpoint, source, training and not runner._resume)
        fresh = let_head_start_fresh(model, checkpoint, source) if training else None
        if fresh:
            runner.logger.warning(fresh)

    def before_train(self, runner: Runner) -> None:
        model = unwrap_model(runner.model)
        runner.logger.info('\n%s', count_parameters(model).table())
        self._check_data(runner, model)
        batch_size = get_batch_size(runner.train_dataloader)
        if batch_size:
            schedule = read_schedule(runner.cfg, batch_size, runner.optim_wrapper)
            runner.logger.info(schedule.describe())
            mismatch = schedule.explain_mismatch()
            if mismatch:
                runner.logger.warning('Note: %s', mismatch)
        multipliers = describe_multipliers(model, runner.optim_wrapper, runner.cfg.optim_wrapper.get('paramwise_cfg'))
        if multipliers:
            runner.logger.warning('Note: %s', multipliers)
        backend = describe_operations(model, runner.optim_wrapper, bool(runner.cfg.get('compile')))
        if backend:
            runner.logger.info('Operations of AdaRoute: %s.', backend)
        check_sync_norms(model)
        check_optimizer(model, runner.optim_wrapper)
        if any(isinstance(hook, MMEngineCheckpointHook) and not isinstance(hook, CheckpointHook) for hook in runner.hooks):
            runner.logger.warning(
                "Checkpoints are written by mmengine's CheckpointHook: they hold the frozen base and do not say which it is, a "
                'kill while it writes loses the last one, and a resumed run differs from an undisturbed one. Use '
                "type='mmparax.CheckpointHook' in default_hooks.checkpoint.")
        if runner.iter >= runner.max_iters:
            runner.logger.info('The run is at iteration %d of %d: nothing is left to do.', runner.iter, runner.max_iters)
        self._watch = FrozenWatch(model)
        if self._watch.fingerprint:
            runner.logger.info('Fingerprint of the frozen base: %s', self._watch.fingerprint)
        self._check_first_step(runner, model)

    @staticmethod
    def _check_data(runner: Runner, model: nn.Module) -> None:
        """Check the batches, of training and validation, and whether the schedulers fit the length of the run."""
        check_batches(runner.train_dataloader, 'train_dataloader')
        if isinstance(runner._val_loop, BaseLoop):
            check_batches(runner.val_dataloader, 'val_dataloader')
            check_mixed_sizes(model, runner.val_dataloader)
        if hasattr(runner.train_dataloader, '__len__') and runner.max_iters:
            for sentence in describe_schedulers(runner.cfg, runner.max_iters, len(runner.train_dataloader)):
                runner.logger.warning('Note: %s', sentence)

    # ---- while training ----

    def _check_first_step(self, runner: Runner, model: nn.Module) -> None:
        wrapper_cfg = runner.cfg.get('model_wrapper_cfg') or {}
        unused_allowed = bool(runner.cfg.get('find_unused_parameters') or wrapper_cfg.get('find_unused_parameters'))
        if not runner.cfg.get('compile'):
            self._norms = NormWatch(model, get_world_size())

        def watch(wrapper: OptimWrapper) -> None:
            steps = FirstSteps(unused_allowed)
            self._first_steps.append(steps)

            def judge(found: Gradients) -> bool:
                if not steps.judge(found):
                    runner.logger.warning(f'Step {steps.silent} learned nothing: the gradient of every trainable parameter is '
                                          'exactly zero.')
                    return False
                text = f'First step: all {found.count} trainable parameters have a finite gradient'
                if found.zero:
                    text += f'; {summarize_names(found.zero)} exactly zero, which is normal for some methods'
                runner.logger.info(text + '.')
                silent = describe_silent_heads(model, found)
                if silent:
                    runner.logger.warning('Note: %s', silent)
                return True

            watch_first_step(wrapper.optimizer, model, judge)

        for wrapper in list_optim_wrappers(runner.optim_wrapper):
            watch(wrapper)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if self._norms is not None:
            self._norms.images = count_images(data_batch)
            check_input_size(unwrap_model(runner.model), data_batch)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._check_loss(runner, outputs)
        if self._norms is not None:  # the first iteration of this run
            norms, self._norms = self._norms, None
            norms.stop()
            loader = runner.train_dataloader
            if runner.max_iters - runner.iter > len(loader):
                norms.check_last_batch(count_last_batch(loader))

    def _check_loss(self, runner: Runner, outputs: Any) -> None:
        """Stop a run whose logged loss is not finite; with mixed precision at the second, as its scaler skips single steps."""
        interval = next((hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)), LOG_INTERVAL)
        if not self.every_n_train_iters(runner, interval) and not self.is_last_train_iter(runner):
            return
        lost = isinstance(outputs, dict) and not torch.as_tensor(outputs.get('loss', 0.)).isfinite().all()
        self._lost = self._lost + 1 if lost else 0
        parts = list_optim_wrappers(runner.optim_wrapper)
        if self._lost > any(isinstance(part, AmpOptimWrapper) for part in parts):
            rates = ', '.join(f'{group.get("initial_lr", group["lr"]):g}' for part in parts for group in part.param_groups[:1])
            raise TrainingError(
                f'the loss is {float(outputs["loss"])} at iteration {runner.iter + 1}: the run learns nothing any '
                f'more. Lower optim_wrapper.optimizer.lr (now {rates}), lengthen the warm-up, or use '
                'optim_wrapper.clip_grad=dict(max_norm=1.0); go on from a checkpoint from before.')

    def _check_frozen(self, runner: Runner) -> None:
        if self._watch is not None:
            self._watch.check(f'by iteration {runner.iter}')

    def before_val(self, runner: Runner) -> None:
        explain_batches(runner.val_loop, 'val_dataloader')

    def before_test(self, runner: Runner) -> None:
        explain_batches(runner.test_loop, 'test_dataloader')

    def before_val_epoch(self, runner: Runner) -> None:
        self._check_frozen(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        if metrics is not None and isinstance(runner._train_loop, BaseLoop):
            check_monitored(runner.cfg, metrics)

    def after_train_epoch(self, runner: Runner) -> None:
        self._check_frozen(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        self._check_frozen(runner)

    def after_train(self, runner: Runner) -> None:
        for steps in self._first_steps:
            steps.check_end()
        if self._watch is not None:
            self._watch.check_bytes(unwrap_model(runner.model))
            if self._watch.fingerprint:
                runner.logger.info('The frozen base is unchanged, byte by byte.')


def describe_operations(model: nn.Module, wrapper: Any, compiled: bool = False) -> str | None:
    """Which implementation runs the operations of AdaRoute in training, or None for a model without it.

    Args:
        model: what the run trains.
        wrapper: its optimizer wrapper, or a dict of several: they know the type of mixed precision.
        compiled: whether the model runs through ``torch.compile``.
    """
    adapter = next((module for module in model.modules() if isinstance(module, AdaRouteAdapter)), None)
    if adapter is None:
        return None
    if compiled:
        return 'reference (PyTorch, compiled)'
    parameter = next(adapter.parameters())
    autocast = next((part.cast_dtype or torch.get_autocast_dtype(parameter.device.type)
                     for part in list_optim_wrappers(wrapper) if isinstance(part, AmpOptimWrapper)), None)
    return describe_backend(parameter.device, parameter.dtype, autocast)
