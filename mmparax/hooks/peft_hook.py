"""Says what is trainable, and stops a run that would train the wrong thing."""
from typing import Any

import torch
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper
from mmengine.runner import BaseLoop, Runner
from torch import nn

from mmparax.adapters.adaroute import AdaRouteAdapter
from mmparax.backbones.parameters import count_parameters
from mmparax.checkpoint.compatibility import keep_fitting_head
from mmparax.checkpoint.mmengine_loading import FRESH_HEAD
from mmparax.checks.checkpoint import check_origin, check_resumable
from mmparax.checks.frozen import FrozenWatch
from mmparax.checks.gradients import Gradients, check_gradients, watch_first_step
from mmparax.checks.model import check_class_counts, check_features, check_sync_norms
from mmparax.checks.optimizer import check_optimizer, list_optim_wrappers
from mmparax.checks.pipeline_errors import name_pipeline_errors
from mmparax.checks.scan import find_ignored_values
from mmparax.checks.schedule import read_schedule
from mmparax.errors import ParameterError, check_options
from mmparax.hooks.checkpoint_hook import CheckpointHook
from mmparax.ops.dispatch import describe_backend
from mmparax.registry import HOOKS
from mmparax.utils.modules import unwrap_model
from mmparax.utils.text import summarize_names
from mmparax.weights.adapter_file import VerifiedDescription, get_description
from mmparax.weights.claims import CLAIM


@HOOKS.register_module()
class PEFTHook(Hook):
    """Logs what is trainable and what runs AdaRoute's operations, and checks the run; it changes no file.

    Before training: the backbone gives the maps that neck and heads take; the heads are for the classes of the data; the
    checkpoint of ``load_from`` or a resumed run has this method and base; synchronised batch norm has its GPUs; every
    trainable parameter is in the optimizer. It warns when the checkpoint hook is not mmparax's and when the batch size is not
    the recipe's. At the first optimizer step that is taken (with mixed precision: the first that the loss scaler accepts):
    every trainable parameter has a finite gradient. Before every validation and save and after every epoch, by version
    counters, and at the end, byte by byte: the frozen base is unchanged.

    Raises:
        ParameterError: for an option; it has none.
        InputError: for a config or checkpoint that does not fit.
        TrainingError: naming the first parameter without a finite gradient, or that is frozen and changed.
    """
    priority = 'HIGHEST'  # a checkpoint is judged before hooks of moving averages copy from it

    def __init__(self, **options: Any):
        if 'save' in options:
            raise ParameterError(
                'save', options['save'], 'PEFTHook only checks, and what a checkpoint holds is set by '
                'default_hooks.checkpoint.save, of mmparax.CheckpointHook')
        check_options(type(self).__name__, options, ())
        self._watch: FrozenWatch | None = None

    # ---- before training ----

    def before_run(self, runner: Runner) -> None:
        if runner.cfg.get('activation_checkpointing'):
            raise ParameterError('activation_checkpointing', runner.cfg.activation_checkpointing,
                                 "mmengine's recomputation loses the gradients of adapters behind a frozen stem",
                                 'Use model.backbone.with_cp=True.')
        model = unwrap_model(runner.model)
        check_features(model)
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
        if training and get_description(checkpoint):
            self._start_from_adapter(runner, model, checkpoint, source)

    @staticmethod
    def _start_from_adapter(runner: Runner, model: nn.Module, checkpoint: dict[str, Any], source: str) -> None:
        """Let a training begin with another head than the file's."""
        weights = checkpoint['state_dict']
        weights._metadata[CLAIM] = VerifiedDescription(weights._metadata[CLAIM], **{FRESH_HEAD: True})
        taken, fresh = keep_fitting_head(model, weights)
        if fresh:
            runner.logger.warning(f'{source!r} gives the adapter and {len(taken)} tensors of the head; the others start fresh: '
                                  f'{summarize_names(fresh)}.')

    def before_train(self, runner: Runner) -> None:
        model = unwrap_model(runner.model)
        runner.logger.info('\n%s', count_parameters(model).table())
        loader = runner.train_dataloader
        batch_size = getattr(loader, 'batch_size', None) or getattr(getattr(loader, 'batch_sampler', None), 'batch_size', None)
        if batch_size:
            schedule = read_schedule(runner.cfg, batch_size, runner.optim_wrapper)
            runner.logger.info(schedule.describe())
            mismatch = schedule.explain_mismatch()
            if mismatch:
                runner.logger.warning('Note: %s', mismatch)
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

    # ---- while training ----

    @staticmethod
    def _check_first_step(runner: Runner, model: nn.Module) -> None:
        wrapper_cfg = runner.cfg.get('model_wrapper_cfg') or {}
        unused_allowed = bool(runner.cfg.get('find_unused_parameters') or wrapper_cfg.get('find_unused_parameters'))

        def judge(found: Gradients) -> None:
            check_gradients(found, unused_allowed)
            text = f'First step: all {found.count} trainable parameters have a finite gradient'
            if found.zero:
                text += f'; {summarize_names(found.zero)} exactly zero, which is normal for some methods'
            runner.logger.info(text + '.')

        for wrapper in list_optim_wrappers(runner.optim_wrapper):
            watch_first_step(wrapper.optimizer, model, judge)

    def _check_frozen(self, runner: Runner) -> None:
        if self._watch is not None:
            self._watch.check(f'by iteration {runner.iter}')

    def before_val_epoch(self, runner: Runner) -> None:
        self._check_frozen(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        self._check_frozen(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        self._check_frozen(runner)

    def after_train(self, runner: Runner) -> None:
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
