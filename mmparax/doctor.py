"""Examines a config without training: what PEFTHook checks in a run, on one batch, before GPUs are booked."""
import itertools
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, MODELS, init_default_scope
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.utils.dl_utils import collect_env
from torch import nn
from torch.utils.data import DataLoader

from mmparax.backbones.adapted import find_adapted_backbones
from mmparax.backbones.base_weights import BaseSource
from mmparax.backbones.parameters import count_parameters
from mmparax.checkpoint.fingerprint import fingerprint
from mmparax.checkpoint.mmengine_loading import check_fit
from mmparax.checks.checkpoint import check_origin, let_head_start_fresh
from mmparax.checks.components import check_components
from mmparax.checks.data import check_datasets
from mmparax.checks.findings import OK, SKIPPED, WARNING, Finding, Findings, Report
from mmparax.checks.frozen import check_trainable
from mmparax.checks.hidden_folders import leave_out_hidden_folders
from mmparax.checks.loaders import (
    LOADERS,
    LONGEST_WAIT,
    build_loader,
    count_iterations,
    drop_worker_options,
    get_batch_size,
    limit_time,
    repeat_batches,
    shrink_batches,
)
from mmparax.checks.losses import check_losses
from mmparax.checks.model import check_class_counts, check_features
from mmparax.checks.norms import NormWatch, count_last_batch
from mmparax.checks.one_step import take_step
from mmparax.checks.optimizer import check_optimizer
from mmparax.checks.pipeline_errors import name_pipeline_errors
from mmparax.checks.random_batch import make_random_batch
from mmparax.checks.rates import describe_multipliers
from mmparax.checks.round_trip import check_round_trip, make_checkpoint
from mmparax.checks.scan import find_ignored_values, raise_errors, scan_datasets
from mmparax.checks.scan import summarize as summarize_data
from mmparax.checks.schedule import read_schedule
from mmparax.checks.scheduler_states import build_schedulers, build_wrapper, list_schedulers
from mmparax.checks.schedulers import describe_schedulers
from mmparax.checks.validation import (
    are_all_nan,
    check_mixed_sizes,
    check_monitored,
    describe_metrics,
    list_monitored,
    validate_apart,
)
from mmparax.config.query import find_class, find_datasets, find_missing_downloads, get_metainfo, get_model_config, walk_configs
from mmparax.config.sections import check_loops, check_sections
from mmparax.errors import MissingFileError, ParameterError, UserError
from mmparax.hooks.checkpoint_hook import CheckpointHook
from mmparax.utils.launch import SYNC_BN


class Doctor:
    """Runs the checks in order; one that cannot be made because an earlier one failed is skipped.

    Args:
        cfg: the config of a training run.
        batch_size: images in the one batch.
        num_processes: number of processes that the run will have.
        report: called with every finding as soon as there is one.
    """

    def __init__(self, cfg: Config, batch_size: int = 2, num_processes: int = 1, report: Report = lambda finding: None):
        self.cfg, self.batch_size, self.num_processes = cfg, batch_size, num_processes
        self.findings = Findings(report)
        self.model: nn.Module | None = None
        self.loader: DataLoader | None = None  # of the training, as the config asks for it
        self.wrapper: Any = None  # with which a step was taken
        self.schedulers: Any = None  # of that one
        self.has_data, self.has_faulty_data, self.fits = False, False, False

    def examine(self) -> list[Finding]:
        """Run every check and return the findings."""
        init_default_scope(self.cfg.get('default_scope', 'mmengine'))
        for name, check in (('packages', self.check_packages), ('config', self.check_config),
                            ('checkpoints', self.check_checkpoints), ('data', self.check_data), ('model', self.check_model),
                            ('features', self.check_features), ('classes', self.check_classes), ('base', self.check_base),
                            ('load_from', self.check_load_from), ('frozen', self.check_frozen), ('batches', self.check_batches),
                            ('batch and rate', self.check_schedule), ('one step', self.check_step),
                            ('validation', self.check_validation), ('resuming', self.check_resuming)):
            with self.findings.report_errors(name):
                self.findings.add(name, *check())
        return self.findings

    # ---- the checks: each returns (status, text) or raises ----

    def check_packages(self) -> tuple[str, str]:
        found = {name: __import__(name).__version__ for name in ('torch', 'mmengine', 'mmcv')}
        gpu = collect_env().get('GPU 0', 'no GPU')
        return OK, ', '.join(f'{name} {version}' for name, version in found.items()) + f', {gpu}'

    def check_config(self) -> tuple[str, str]:
        check_sections(self.cfg)
        check_loops(self.cfg)
        warnings, notes = check_components(self.cfg), drop_worker_options(self.cfg)
        if not any('PEFTHook' in str(hook.get('type')) for hook in self.cfg.get('custom_hooks') or []):
            return WARNING, "custom_hooks has no dict(type='mmparax.PEFTHook'): only tools/train.py would check the run"
        if warnings:
            return WARNING, ' '.join(warnings)
        return OK, ' '.join(['PEFTHook checks the run.', *notes]) if notes else 'PEFTHook checks the run'

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
        try:
            return self._look_at_data()
        except MissingFileError:
            raise
        except UserError:
            self.has_faulty_data = True  # what reads them next would say the same in worse words
            raise

    def _look_at_data(self) -> tuple[str, str]:
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
        fitted, self.fits = self.fits, False
        check_losses(self.model, self.cfg)
        for loader in LOADERS:
            for dataset in find_datasets(self.cfg.get(loader)):
                check_class_counts(self.model, get_metainfo(self.cfg, dataset), f'{loader}.dataset')
        self.fits = fitted
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
        fresh = let_head_start_fresh(self.model, checkpoint, path)
        check_fit(self.model, checkpoint.get('state_dict', checkpoint))
        return OK, f'{path!r} was made by this method on this base' + (f'. {fresh[:-1]}' if fresh else '')

    def check_frozen(self) -> tuple[str, str]:
        if self.model is None:
            return SKIPPED, 'there is no model'
        check_trainable(self.model)
        wrapper = build_wrapper(self.cfg, self.model)
        check_optimizer(self.model, wrapper)
        multipliers = describe_multipliers(self.model, wrapper, self.cfg.optim_wrapper.get('paramwise_cfg'))
        if multipliers:
            return WARNING, multipliers
        count = count_parameters(self.model)
        return OK, (f'{count.backbone_frozen.parameters / 1e6:.3f} M parameters of the backbone are frozen; every '
                    'trainable parameter is in the optimizer once')

    def check_batches(self) -> tuple[str, str]:
        if not self._has_data_of('train_dataloader'):
            return SKIPPED, self._explain_absence()
        loader = self._build_loader('train_dataloader')
        self.loader = loader
        if not hasattr(loader.dataset, '__len__'):
            return OK, f'batches of {get_batch_size(loader)}'
        per_epoch = self._get_epoch_length()
        if per_epoch == 0:
            raise ParameterError('train_dataloader.batch_size', get_batch_size(loader), f'{len(loader.dataset)} images in '
                                 f'{self.num_processes} processes give no full batch', 'Set drop_last=False, or a smaller batch.')
        return OK, f'{len(loader.dataset)} images, {per_epoch} iterations an epoch for each of {self.num_processes} process(es)'

    def check_schedule(self) -> tuple[str, str]:
        loader = self.cfg.train_dataloader
        batch_size = loader.get('batch_size') or loader.batch_sampler.batch_size
        wrapper = build_wrapper(self.cfg, self.model or nn.Linear(1, 1), accumulate=True)
        build_schedulers(self.cfg, wrapper, self._get_epoch_length() or 1)
        schedule = read_schedule(self.cfg, batch_size, wrapper, self.num_processes)
        if schedule.scaled and schedule.recipe_batch_size:  # the runner would do it
            factor = self.num_processes * batch_size / schedule.recipe_batch_size
            schedule.learning_rates = [rate * factor for rate in schedule.learning_rates]
        mismatch = schedule.explain_mismatch()
        warnings = [mismatch] if mismatch else []
        per_epoch = self._get_epoch_length()
        length = self.cfg.train_cfg.get('max_iters') or self.cfg.train_cfg.get('max_epochs', 0) * per_epoch
        if length:
            warnings += describe_schedulers(self.cfg, length, per_epoch or length)
        if not warnings:
            return OK, schedule.describe()
        return WARNING, ' '.join([schedule.describe(), *(f'{text[0].upper()}{text[1:]}' for text in warnings)])

    def check_step(self) -> tuple[str, str]:
        if self.model is None:
            return SKIPPED, 'there is no model'
        if not self.fits:
            return SKIPPED, 'the parts of the model do not fit'
        batches, origin = self._make_batches()
        if batches is None:
            return SKIPPED, f'no data, and no random images for a {type(self.model).__name__}'
        model = self.model.to(get_device()).train()
        wrapper, schedulers = self._build_optimization()
        norms = NormWatch(model, self.num_processes, self._is_synchronised())
        step = take_step(model, wrapper, batches, norms, bool(self.cfg.get('find_unused_parameters')))
        if self.loader is not None:
            norms.check_last_batch(count_last_batch(self.loader, self.num_processes))
        for _, scheduler in list_schedulers(schedulers):
            scheduler.step()
        self.wrapper, self.schedulers = wrapper, schedulers
        text = f'on {origin}: {step.text}'
        return (WARNING, f'{text}. {" ".join(step.notes)}') if step.notes else (OK, text)

    def check_validation(self) -> tuple[str, str]:
        if self.cfg.get('val_dataloader') is None:
            monitored = next(list_monitored(self.cfg), None)
            if monitored is not None:
                return WARNING, f'{monitored[0]}={monitored[1]!r} has no effect: the config has no validation'
            return OK, 'the config has none'
        if self.wrapper is None:
            return SKIPPED, 'no step was taken'
        if not self._has_data_of('val_dataloader'):
            return SKIPPED, self._explain_absence()
        loader = self._build_loader('val_dataloader')
        check_mixed_sizes(self.model, loader)
        with limit_time(LONGEST_WAIT, 'the first batch of the validation'):
            batch = next(iter(shrink_batches(loader, self.batch_size)))
        metrics, count = validate_apart(self.model, batch, loader.dataset, self.cfg.val_evaluator)
        check_monitored(self.cfg, metrics)
        if not metrics:
            return OK, f'on {count} image(s): nothing was found, so no metric was computed'
        text = f'on {count} image(s): {describe_metrics(metrics)}'
        if are_all_nan(metrics):
            return WARNING, f'{text}. No metric is a number: the annotations hold nothing that counts'
        best = ', '.join(name for _, name in list_monitored(self.cfg))
        return OK, text + (f'; the best checkpoint is chosen by {best}' if best else '')

    def check_resuming(self) -> tuple[str, str]:
        if self.wrapper is None:
            return SKIPPED, 'no step was taken'
        hook = (self.cfg.get('default_hooks') or {}).get('checkpoint', {})
        if hook is None:
            return SKIPPED, 'the run writes no checkpoint'
        meta = dict(cfg=self.cfg.pretty_text, dataset_meta=getattr(self.loader and self.loader.dataset, 'metainfo', None))
        processor = Runner.build_log_processor(None, self.cfg.get('log_processor') or {})
        checkpoint = make_checkpoint(self.model, self.wrapper, self.schedulers, meta, hook.get('save', 'trainable'), processor)
        return OK, check_round_trip(self.model, checkpoint, self._build_optimization)

    # ---- parts ----

    def _build_optimization(self) -> tuple[OptimWrapper, Any]:
        """An optimizer wrapper and its schedulers, as at the start of the run."""
        wrapper = build_wrapper(self.cfg, self.model)
        return wrapper, build_schedulers(self.cfg, wrapper, self._get_epoch_length() or 1)

    def _get_epoch_length(self) -> int:
        """Iterations an epoch, of one of the processes of the run; 0 if it cannot be told."""
        return 0 if self.loader is None else count_iterations(self.loader, self.num_processes)

    def _has_data_of(self, name: str) -> bool:
        """Whether the data of a loop are there, even if those of another are not."""
        if self.has_data or self.has_faulty_data:
            return self.has_data
        try:
            check_datasets(self.cfg, [name])
        except UserError:
            return False
        return not find_missing_downloads(self.cfg, [name])

    def _explain_absence(self) -> str:
        return 'the data have a problem' if self.has_faulty_data else 'the data are not there'

    def _build_loader(self, name: str) -> DataLoader:
        with limit_time(5 * LONGEST_WAIT, f'building {name}'):  # annotation files may be large
            loader = build_loader(Runner.build_dataloader, self.cfg[name], name, seed=0)
        ignored = find_ignored_values(self.cfg, name) if name == 'train_dataloader' else None
        name_pipeline_errors(loader.dataset, f'{name}.dataset', ignored)
        return loader

    def _is_synchronised(self) -> bool:
        """Whether batch norms of the model, which are plain here, will be synchronised over the processes of the run."""
        return bool(self.cfg.get('sync_bn')) or any(
            part.get('type') in SYNC_BN for _, part in walk_configs(get_model_config(self.cfg)))

    def _make_batches(self) -> tuple[Iterator[Any] | None, str]:
        """Batches without an end, and what is in them."""
        if self.loader is not None:
            # Batch norm is tried with the images of one process; where it is synchronised, those of the others count.
            size = get_batch_size(self.loader) or self.batch_size
            size = min(self.batch_size, size * self.num_processes if self._is_synchronised() else size)
            loader = shrink_batches(self.loader, size)
            return repeat_batches(loader), f'{get_batch_size(loader)} training images'
        batch = make_random_batch(self.model, self.batch_size)
        origin = f'{self.batch_size} random images ({self._explain_absence()})'
        return (None if batch is None else itertools.repeat(batch)), origin
