"""Dataloaders that start or say why not: workers that fit, data sets that hold something, batches within a time."""
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.config import Config
from torch.utils.data import DataLoader, IterableDataset

from mmparax.errors import InputError, ParameterError, TrainingError, UserError
from mmparax.utils.choices import LOADERS

OF_WORKERS = ('persistent_workers', 'prefetch_factor', 'timeout', 'multiprocessing_context')  # torch refuses them without workers
# What NumPy says when mmengine joins the entries of a data set that has none.
NOTHING_TO_JOIN = 'need at least one array to concatenate'
LONGEST_WAIT = 120  # seconds for the first batch


def drop_worker_options(cfg: Config) -> list[str]:
    """Switch off what a dataloader of a config cannot do without workers, in place.

    Args:
        cfg: a config.

    Returns:
        A sentence for each dataloader that was changed.
    """
    sentences = []
    for name in LOADERS:
        loader = cfg.get(name)
        if not isinstance(loader, dict) or loader.get('num_workers'):
            continue
        dropped = [option for option in OF_WORKERS if loader.get(option)]
        for option in OF_WORKERS:
            loader.pop(option, None)
        if dropped:
            sentences.append(f'{name} has num_workers=0 and therefore no {" and no ".join(dropped)}.')
    return sentences


def build_loader(build: Callable[..., DataLoader], config: Any, place: str, **options: Any) -> DataLoader:
    """Build a dataloader of a data set that is not empty.

    A sampler that repeats an empty data set for ever never returns, so this comes before the first batch is asked for.

    Args:
        build: mmengine's ``Runner.build_dataloader``.
        config: of the dataloader.
        place: of it in the config, for the errors.
        **options: for ``build``.

    Raises:
        InputError: if there is no image, or no batch.
    """
    try:
        loader = build(config, **options)
    except UserError:
        raise
    except ValueError as error:
        if NOTHING_TO_JOIN in str(error):
            raise _describe_empty(place) from error
        raise
    if hasattr(loader.dataset, '__len__') and len(loader.dataset) == 0:
        raise _describe_empty(place)
    check_batches(loader, place)
    return loader


def _describe_empty(place: str) -> InputError:
    return InputError(f'{place}.dataset has 0 images: no file matches it, or all were filtered out. Look at data_root, '
                      'data_prefix, img_suffix, ann_file and filter_cfg.')


def check_batches(loader: Any, place: str) -> None:
    """Check that a dataloader gives a batch at all.

    Args:
        loader: a dataloader.
        place: of it in the config.

    Raises:
        ParameterError: if it drops the only batch, which is not full.
    """
    try:
        count = len(loader)
    except TypeError:  # of an iterable data set
        return
    if count == 0:
        size = get_batch_size(loader)
        raise ParameterError(
            f'{place}.batch_size', size,
            f'its data set gives {len(loader.dataset)} image(s), fewer than a batch, and drop_last drops '
            'batches that are not full: there is nothing to iterate over', f'Set it to at most {len(loader.dataset)}, or '
            f'{place}.drop_last=False.')


def get_batch_size(loader: Any) -> int | None:
    """Images in a full batch of a dataloader, or None if it does not say."""
    return getattr(loader, 'batch_size', None) or getattr(getattr(loader, 'batch_sampler', None), 'batch_size', None)


def shrink_batches(loader: DataLoader, size: int) -> DataLoader:
    """Make a dataloader of smaller batches from the same data set, sampler and workers (two at most), which ends in time.

    Args:
        loader: as the config asks for it; one with a batch sampler of its own keeps its batches.
        size: images in a batch, at most.
    """
    workers = min(loader.num_workers, 2)
    common = dict(dataset=loader.dataset, num_workers=workers, collate_fn=loader.collate_fn, pin_memory=loader.pin_memory,
                  worker_init_fn=loader.worker_init_fn,
                  timeout=min(loader.timeout or LONGEST_WAIT, LONGEST_WAIT) if workers else 0,
                  multiprocessing_context=loader.multiprocessing_context if workers else None)
    if loader.batch_size is None:
        return DataLoader(batch_sampler=loader.batch_sampler, **common)
    if isinstance(loader.dataset, IterableDataset):
        return DataLoader(batch_size=min(size, loader.batch_size), **common)
    return DataLoader(batch_size=min(size, loader.batch_size), sampler=loader.sampler, **common)


def count_iterations(loader: DataLoader, num_processes: int = 1) -> int:
    """Iterations an epoch, of one of the processes of a run.

    Args:
        loader: built in a single process.
        num_processes: that will share its data set.
    """
    size = get_batch_size(loader)
    if loader.batch_size is None or not size:
        return len(loader) // num_processes
    owner = loader.sampler if hasattr(loader.sampler, '__len__') else loader.dataset
    if not hasattr(owner, '__len__'):
        return 0
    images = -(-len(owner) // num_processes)
    return images // size if loader.drop_last else -(-images // size)


def repeat_batches(loader: DataLoader) -> Iterator[Any]:
    """Yield the batches of a dataloader again and again.

    Raises:
        TrainingError: if the first takes too long.
    """
    while True:
        with limit_time(LONGEST_WAIT, 'the first batch'):
            batches = iter(loader)
            batch = next(batches)
        yield batch
        yield from batches


def build_checked_loaders(runner: Any) -> None:
    """Let a runner build its dataloaders by :func:`build_loader`.

    Args:
        runner: mmengine's, whose loops are not built yet.
    """
    build = runner.build_dataloader
    places = {id(getattr(runner, f'_{name}', None)): name for name in LOADERS}

    def build_checked(config: Any, *args: Any, **options: Any) -> DataLoader:
        return build_loader(lambda config, **options: build(config, *args, **options), config,
                            places.get(id(config), 'dataloader'), **options)

    runner.build_dataloader = build_checked


@contextmanager
def limit_time(seconds: int, what: str) -> Iterator[None]:
    """Stop what takes longer than it should: a data set or sampler that searches for ever.

    Works in the main thread of systems that have alarms; elsewhere there is no limit.

    Args:
        seconds: whole seconds.
        what: takes them, for the error.

    Raises:
        TrainingError: after that time.
    """
    if not hasattr(signal, 'SIGALRM') or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise TrainingError(f'{what} took more than {seconds} seconds and was stopped: a data set or sampler that finds nothing '
                            'searches for ever, and so does a data set on a disk that does not answer.')

    before = signal.signal(signal.SIGALRM, stop)
    left = signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(left)
        signal.signal(signal.SIGALRM, before)
