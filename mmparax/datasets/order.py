"""Resumable order of the data: what a sample looks like depends on the seed and on its place in the run alone.

Random transforms draw from the generators of the process that loads, whose state after N batches depends on the number
of workers and on how far they read ahead. Here every sample gets generators of its own, so a run that is resumed after N
iterations sees the samples of an undisturbed one.
"""
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mmparax.errors import InputError


class PlacedIndex(int):
    """An index into a data set that knows its place in the run: (seed, process, epoch, number within it)."""
    place: tuple[int, ...]

    def __new__(cls, index: int, place: tuple[int, ...]) -> 'PlacedIndex':
        self = super().__new__(cls, index)
        self.place = place
        return self

    def __reduce__(self) -> tuple:
        return type(self), (int(self), self.place)


class Proxy:
    """Stands for the object that it wraps: what it does not name in ``own`` is read from and written to that."""
    own: tuple[str, ...] = ('wrapped', )

    def __init__(self, wrapped: Any):
        self.wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') or name in self.own:
            raise AttributeError(name)
        return getattr(self.wrapped, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.own:
            object.__setattr__(self, name, value)
        else:
            setattr(self.wrapped, name, value)

    def __len__(self) -> int:
        return len(self.wrapped)


class PlacedSampler(Proxy):
    """A sampler whose indices know their place in the run; ``skip``, if the sampler has it, moves the places, too.

    Args:
        wrapped: the sampler.
        prefix: (seed, process), with which every place begins.
    """
    own = ('wrapped', 'prefix', 'first', 'run_epoch', 'passes')

    def __init__(self, wrapped: Any, prefix: tuple[int, int]):
        super().__init__(wrapped)
        self.prefix = prefix
        self.first = 0
        self.run_epoch: int | None = None  # set by epoch-based runs
        self.passes = 0

    def __iter__(self) -> Iterator[int]:
        epoch = self.passes if self.run_epoch is None else self.run_epoch
        epoch = getattr(self.wrapped, 'epoch', epoch)
        self.passes += 1
        for number, index in enumerate(self.wrapped, self.first):
            yield PlacedIndex(index, (*self.prefix, epoch, number)) if isinstance(index, (int, np.integer)) else index

    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)
        return self._skip if name == 'skip' else found

    def _skip(self, count: int) -> None:
        self.first = count
        self.wrapped.skip(count)

    def restart(self, seed: int | None = None) -> None:
        """Begin anew, with the order of ``seed`` if it is given."""
        self.first = self.passes = 0
        if seed is not None and hasattr(self.wrapped, 'seed'):
            self.wrapped.seed = seed
        if hasattr(self.wrapped, '_indices_of_rank'):  # mmengine's InfiniteSampler: a generator that lives on
            self.wrapped.indices = self.wrapped._indices_of_rank()


class SeededDataset(Proxy, Dataset):
    """A data set that loads every placed index with generators of its own; those of the process stay as they are."""

    def __getitem__(self, index: int) -> Any:
        if not isinstance(index, PlacedIndex):
            return self.wrapped[index]
        with seed_generators(index.place):
            return self.wrapped[int(index)]


@contextmanager
def seed_generators(entropy: tuple[int, ...]) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's CPU generator from non-negative integers; restore them afterwards."""
    saved = get_generator_states(cuda=False)
    seeds = np.random.SeedSequence(entropy).generate_state(3)
    random.seed(int(seeds[0]))
    np.random.seed(seeds[1])
    torch.default_generator.manual_seed(int(seeds[2]))  # torch.manual_seed would reset the GPU's generators too
    try:
        yield
    finally:
        restore_generators(saved)


def get_generator_states(cuda: bool = True) -> dict[str, Any]:
    """The states of Python's, NumPy's, torch's and this process's GPU generator, as tensors and plain numbers."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return dict(python=(version, torch.tensor(numbers, dtype=torch.int64), gauss),
                numpy=(name, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)),
                torch=torch.get_rng_state(), cuda=torch.cuda.get_rng_state() if cuda and torch.cuda.is_available() else None)


def restore_generators(states: dict[str, Any]) -> None:
    """Restore what :func:`get_generator_states` returned.

    Raises:
        InputError: if it is not that.
    """
    try:
        version, numbers, gauss = states['python']
        random.setstate((version, tuple(numbers.tolist()), gauss))
        name, keys, position, *rest = states['numpy']
        if name != 'MT19937' or type(position) is not int or not 0 <= position <= len(keys):
            raise ValueError('a state of another generator of NumPy')
        np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), position, *rest))
        torch.set_rng_state(states['torch'].cpu())
        if isinstance(states['cuda'], Tensor) and torch.cuda.is_available():
            torch.cuda.set_rng_state(states['cuda'].cpu())
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise InputError('the checkpoint cannot be resumed: its states of the random generators are damaged '
                         f'({type(error).__name__}: {error}). Resume from another one; load_from starts from its weights '
                         'alone.') from error


def make_resumable(loader: DataLoader, seed: int, rank: int) -> DataLoader | None:
    """Make a loader of the same batches whose samples depend on (seed, rank, place).

    The new loader draws the seeds of its workers from a generator of its own: creating an iterator does not move the
    generators that dropout draws from.

    Args:
        loader: its batch sampler, if it has one of its own, is changed.
        seed: of the run.
        rank: of this process.

    Returns:
        The loader, or None for a kind whose order cannot be followed.
    """
    if type(loader) is not DataLoader or isinstance(loader.dataset, IterableDataset):
        return None
    common = dict(dataset=SeededDataset(loader.dataset), num_workers=loader.num_workers, collate_fn=loader.collate_fn,
                  pin_memory=loader.pin_memory, timeout=loader.timeout, worker_init_fn=loader.worker_init_fn,
                  multiprocessing_context=loader.multiprocessing_context, prefetch_factor=loader.prefetch_factor,
                  persistent_workers=loader.persistent_workers, generator=torch.Generator().manual_seed(seed))
    if loader.batch_size is not None:
        return DataLoader(batch_size=loader.batch_size, drop_last=loader.drop_last,
                          sampler=PlacedSampler(loader.sampler, (seed, rank)), **common)
    if not hasattr(loader.batch_sampler, 'sampler'):
        return None
    loader.batch_sampler.sampler = PlacedSampler(loader.batch_sampler.sampler, (seed, rank))
    return DataLoader(batch_sampler=loader.batch_sampler, **common)


def get_sampler(loader: DataLoader) -> PlacedSampler:
    """The sampler of a loader that :func:`make_resumable` returned."""
    return loader.sampler if isinstance(loader.sampler, PlacedSampler) else loader.batch_sampler.sampler
