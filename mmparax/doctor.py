"""Examines a config without training: what PEFTHook checks in a run, on one batch, before GPUs are booked."""
import copy
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import HOOKS, MODELS, init_default_scope
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.utils.dl_utils import collect_env
from torch import nn

from mmparax.backbones.adapted import find_adapted_backbones
from mmparax.backbones.base_weights import BaseSource
from mmparax.backbones.parameters import count_parameters
from mmparax.checkpoint.fingerprint import fingerprint
from mmparax.checkpoint.mmengine_loading import check_fit
from mmparax.checks.checkpoint import check_origin
from mmparax.checks.data import check_datasets
from mmparax.checks.frozen import FrozenWatch
from mmparax.checks.gradients import Gradients, check_gradients, watch_first_step
from mmparax.checks.hidden_folders import leave_out_hidden_folders
from mmparax.checks.model import check_class_counts, check_features
from mmparax.checks.optimizer import check_optimizer, list_optim_wrappers
from mmparax.checks.random_batch import make_random_batch
from mmparax.checks.scan import raise_errors, scan_datasets
from mmparax.checks.scan import summarize as summarize_data
from mmparax.checks.schedule import read_schedule
from mmparax.config.query import find_class, find_datasets, find_missing_downloads, get_metainfo, get_model_config, walk_configs
from mmparax.errors import TRACEBACK, TrainingError, UserError
from mmparax.hooks.checkpoint_hook import CheckpointHook
from mmparax.utils.launch import use_amp
from mmparax.utils.names import join_name
from mmparax.utils.text import summarize_names

OK, WARNING, PROBLEM, SKIPPED = 'ok', 'warning', 'problem', 'skipped'
FIRST_STEPS = 12  # a dynamic loss scale starts high and is halved at every step that it rejects


@dataclass
class Finding:
    """The outcome of one check: ``status`` is ``'ok'``, ``'warning'``, ``'problem'`` or ``'skipped'``."""
    check: str
    status: str
    text: str


Report = Callable[[Finding], None]


class Doctor:
    """Runs the checks in order; one that cannot be made because an earlier one failed is skipped.

    Args:
        cfg: the config of a training run.
        batch_size: images in the one batch.
        num_processes: number of processes that the run will have.
        report: called with every finding as soon as there is one.
    """

    def __init__(self, cfg: Config, batch_size: int = 2, num_processes: int = 1, report: Report = lambda finding: None):
        self.cfg, self.batch_size, self.num_processes, self.report = cfg, batch_size, num_processes, report
        self.findings: list[Finding] = []
        self.model: nn.Module | None = None
        self.has_data, self.fits = False, False

    def examine(self) -> list[Finding]:
        """Run every check and return the findings."""
        init_default_scope(self.cfg.get('default_scope', 'mmengine'))
        for name, check in (('packages', self.check_packages), ('config', self.check_config),
                            ('checkpoints', self.check_checkpoints), ('data', self.check_data), ('model', self.check_model),
                            ('features', self.check_features), ('classes', self.check_classes), ('base', self.check_base),
                            ('load_from', self.check_load_from), ('frozen', self.check_frozen),
                            ('batch and rate', self.check_schedule), ('one step', self.check_step)):
            with self._report_errors(name):
                status, text = check()
                self._add(name, status, text)
        return self.findings

    def _add(self, check: str, status: str, text: str) -> None:
        self.findings.append(Finding(check, status, text))
        self.report(self.findings[-1])

    @contextmanager
    def _report_errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            self._add(name, PROBLEM, str(error))
        except Exception as error:  # whatever a toolbox raises is a finding, too
            if os.environ.get(TRACEBACK):
                raise
            text = f'{type(error).__name__}: {error}'.splitlines()[0]
            self._add(name, PROBLEM, f'{text} (set {TRACEBACK}=1 to see where)')

    # ---- the checks: each returns (status, text) or raises ----

    def check_packages(self) -> tuple[str, str]:
        found = {name: __import__(name).__version__ for name in ('torch', 'mmengine', 'mmcv')}
        gpu = collect_env().get('GPU 0', 'no GPU')
        return OK, ', '.join(f'{name} {version}' for name, version in found.items()) + f', {gpu}'

    def check_config(self) -> tuple[str, str]:
        hooks_of_run = self.cfg.get('custom_hooks') or []
        for hook in [*hooks_of_run, *(self.cfg.get('default_hooks') or {}).values()]:
            cls = find_class(HOOKS, hook, self.cfg) if isinstance(hook, Mapping) else None
            if cls is not None and cls.__module__.startswith('mmparax.'):  # a wrong option is an error here, not in the run
                cls(**{name: value for name, value in hook.items() if name not in ('type', 'priority', '_scope_')})
        if not any('PEFTHook' in str(hook.get('type')) for hook in hooks_of_run):
            return WARNING, "custom_hooks has no dict(type='mmparax.PEFTHook'): only tools/train.py would check the run"
        return OK, 'PEFTHook checks the run'

    def check_checkpoints(self) -> tuple[str, str]:
        hook = (self.cfg.get('default_hooks') or {}).get('checkpoint', dict(type='CheckpointHook'))
        if hook is None:
            return WARNING, 'default_hooks.checkpoint=None: the run writes no checkpoint'
        cls = find_class(HOOKS, hook, self.cfg)
        if cls is not None and issubclass(cls, MMEngineCheckpointHook) and not issubclass(cls, CheckpointHook):
            replaced = '; tools/train.py would replace it' if cls is MMEngineCheckpointHook else ''
            return WARNING, ("default_hooks.checkpoint is mmengine's, which saves the frozen base, loses the last one to a kill "
                             f"while it writes, and does not resume exactly{replaced}. Use type='mmparax.CheckpointHook'")
        held = 'with the frozen base' if hook.get('save') == 'all' else 'without the frozen base'
        return OK, f'{held}, written whole, resumed exactly'

    def check_data(self) -> tuple[str, str]:
        loaders, others = ['train_dataloader', 'val_dataloader'], ['test_dataloader']
        notes = leave_out_hidden_folders(self.cfg, [*loaders, *others])
        check_datasets(self.cfg, loaders)
        fetched = find_missing_downloads(self.cfg, [*loaders, *others])
        if fetched:
            return OK, f'will be downloaded into {", ".join(map(repr, fetched))} at the start of the run'
        try:
            check_datasets(self.cfg, others)
        except UserError as error:
            others = []
            notes.append(f'training has its data, tools/test.py has not: {error}')
        scanned = scan_datasets(self.cfg, [*loaders, *others])
        tested = [entry for entry in scanned if entry.place.startswith('test_dataloader')]
        raise_errors([entry for entry in scanned if entry not in tested])
        self.has_data = True
        for entry in tested:
            notes += [f'training has its data, tools/test.py has not: {sentence}' for sentence in summarize_data(entry, False)]
        notes += [sentence for entry in scanned for sentence in summarize_data(entry, True)]
        if notes:
            return WARNING, ' '.join(notes)
        return OK, 'the folders and files of all data sets exist, and have the classes of the config'

    def check_model(self) -> tuple[str, str]:
        # A base that does not fit is a finding of its own: the model is built without one, and the base is loaded next.
        cfg, bases = get_model_config(self.cfg), {}
        for path, part in walk_configs(cfg):
            if part.get('base_checkpoint') is not None:
                bases[path] = part['base_checkpoint']
                part.update(base_checkpoint=None, allow_random_base=False)
        model = MODELS.build(cfg)
        self.model = revert_sync_batchnorm(model) if get_device() == 'cpu' else model
        for name, backbone in find_adapted_backbones(self.model):
            backbone.base_checkpoint = bases.get(name)
        count = count_parameters(self.model)
        methods = ', '.join(
            type(backbone.method).__name__ if backbone.method else 'full fine-tuning'
            for _, backbone in find_adapted_backbones(self.model))
        return OK, (f'{type(self.model).__name__} with {methods}: {count.trainable_in_backbone / 1e6:.3f} M of '
                    f'{count.backbone / 1e6:.3f} M parameters of the backbone are trainable, and '
                    f'{count.head.parameters / 1e6:.3f} M of the head')

    def check_features(self) -> tuple[str, str]:
        if self.model is None:
            return SKIPPED, 'there is no model'
        check_features(self.model)
        self.fits = True
        return OK, 'the neck and the heads take what the backbone gives'

    def check_classes(self) -> tuple[str, str]:
        if self.model is None:
            return SKIPPED, 'there is no model'
        for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            for dataset in find_datasets(self.cfg.get(loader)):
                try:
                    check_class_counts(self.model, get_metainfo(self.cfg, dataset), f'{loader}.dataset')
                except UserError:
                    self.fits = False
                    raise
        return OK, 'the heads are for the classes of the data'

    def check_base(self) -> tuple[str, str]:
        if self.model is None:
            return SKIPPED, 'there is no model'
        try:
            self.model.init_weights()
            for _, backbone in find_adapted_backbones(self.model):
                backbone.check_base()
        finally:  # the other checks need a model that runs, whatever its base is
            for _, backbone in find_adapted_backbones(self.model):
                backbone.base_source = backbone.base_source or BaseSource.RANDOM
        if any(backbone.base_source is BaseSource.RANDOM for _, backbone in find_adapted_backbones(self.model)):
            return WARNING, 'allow_random_base=True: the base has random weights'
        text = ', '.join(repr(backbone.base_checkpoint) for _, backbone in find_adapted_backbones(self.model))
        digest = fingerprint(self.model)
        return OK, f'{text} fits in every key and shape' + (f'; fingerprint {digest}' if digest else '')

    def check_load_from(self) -> tuple[str, str]:
        path = self.cfg.get('load_from')
        if not path or self.model is None:
            return (SKIPPED, 'there is no model') if path else (OK, 'none, training starts from the base')
        checkpoint = CheckpointLoader.load_checkpoint(path, 'cpu')
        check_origin(self.model, checkpoint, path, training=True)
        check_fit(self.model, checkpoint.get('state_dict', checkpoint))
        return OK, f'{path!r} was made by this method on this base'

    def check_frozen(self) -> tuple[str, str]:
        if self.model is None:
            return SKIPPED, 'there is no model'
        wrong = []
        for owner, backbone in find_adapted_backbones(self.model):
            frozen = backbone.frozen_parameters()
            wrong += [
                join_name(owner, name) for name, parameter in backbone.named_parameters()
                if backbone.method is not None and (name in frozen) == parameter.requires_grad
            ]
        if wrong:
            raise TrainingError(f'{wrong[0]} and {len(wrong) - 1} more are trainable or frozen against the method')
        check_optimizer(self.model, self._build_wrapper())
        count = count_parameters(self.model)
        return OK, (f'{count.backbone_frozen.parameters / 1e6:.3f} M parameters of the backbone are frozen; every '
                    'trainable parameter is in the optimizer once')

    def check_schedule(self) -> tuple[str, str]:
        loader = self.cfg.train_dataloader
        batch_size = loader.get('batch_size') or loader.batch_sampler.batch_size
        schedule = read_schedule(self.cfg, batch_size, self._build_wrapper(accumulate=True), self.num_processes)
        if schedule.scaled and schedule.recipe_batch_size:  # the runner would do it
            factor = self.num_processes * batch_size / schedule.recipe_batch_size
            schedule.learning_rates = [rate * factor for rate in schedule.learning_rates]
        mismatch = schedule.explain_mismatch()
        if mismatch is None:
            return OK, schedule.describe()
        return WARNING, f'{schedule.describe()} {mismatch[0].upper()}{mismatch[1:]}'

    def check_step(self) -> tuple[str, str]:
        if self.model is None:
            return SKIPPED, 'there is no model'
        if not self.fits:
            return SKIPPED, 'the parts of the model do not fit'
        batch, origin = self._make_batch()
        if batch is None:
            return SKIPPED, f'no data, and no random images for a {type(self.model).__name__}'
        model = self.model.to(get_device()).train()
        wrapper, watch = self._build_wrapper(), FrozenWatch(self.model)
        found: list[Gradients] = []
        for part in list_optim_wrappers(wrapper):
            watch_first_step(part.optimizer, model, found.append)
        losses: dict[str, Any] = {}
        for _ in range(FIRST_STEPS):
            losses = model.train_step(batch, wrapper)
            if found:
                break
        if not found:
            raise TrainingError(f'the loss scaler accepted none of {FIRST_STEPS} steps: use bf16')
        for gradients in found:
            check_gradients(gradients, bool(self.cfg.get('find_unused_parameters')))
        watch.check('by one step')
        watch.check_bytes(model)
        loss = sum(value.item() for name, value in losses.items() if name == 'loss')
        if not math.isfinite(loss):
            raise TrainingError(f'the loss of the first step is {loss}')
        text = (f'on {origin}: loss {loss:.4f}, a finite gradient for each of {sum(part.count for part in found)} '
                'trainable parameters (nothing would break several processes), the frozen base unchanged')
        zero = [name for part in found for name in part.zero]
        if zero:
            text += f'; exactly zero, which some methods are at first: {summarize_names(zero)}'
        return OK, text

    # ---- parts ----

    def _build_wrapper(self, accumulate: bool = False) -> OptimWrapper:
        holder = Config(dict(optim_wrapper=copy.deepcopy(self.cfg.optim_wrapper)))
        use_amp(holder, None)
        if not accumulate:
            holder.optim_wrapper.pop('accumulative_counts', None)
        return build_optim_wrapper(self.model or nn.Linear(1, 1), holder.optim_wrapper)

    def _make_batch(self) -> tuple[Any, str]:
        if self.has_data:
            loader = self.cfg.train_dataloader.copy()
            loader.update(num_workers=0, persistent_workers=False)
            for name in ('prefetch_factor', 'timeout'):
                loader.pop(name, None)
            loader['batch_size'] = min(self.batch_size, loader.get('batch_size') or self.batch_size)
            loader['dataset'] = self.cfg.train_dataloader.dataset
            return next(iter(Runner.build_dataloader(loader, seed=0))), f'{loader["batch_size"]} training images'
        return make_random_batch(self.model, self.batch_size), f'{self.batch_size} random images (the data are not there)'


def summarize(findings: list[Finding]) -> tuple[bool, str]:
    """Sum the findings up: (whether training may start, the sentence that says so)."""
    problems = [finding.check for finding in findings if finding.status == PROBLEM]
    warnings = [finding.check for finding in findings if finding.status == WARNING]
    note = f' {len(warnings)} warning(s): {", ".join(warnings)}.' if warnings else ''
    if problems:
        return False, f'NOT READY: {len(problems)} problem(s): {", ".join(problems)}.{note}'
    return True, f'READY to train.{note}'
