"""Reads many images and masks, by several processes, and remembers what was found in files that have not changed."""
from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
from torch.utils.data import DataLoader, Dataset

from mmparax.checks.images import ImageFacts, Loader, examine_image
from mmparax.checks.masks import MaskFacts, examine_mask
from mmparax.utils.progress import Progress

FEW = 48  # files that one process reads as fast as several start
MOST_WORKERS = 4  # if nothing is said
VERSION = 1  # of what is remembered: higher whenever an examination finds something else in the same file


@dataclass(frozen=True)
class Task:
    """An image and its mask, each of them to read if there is a loader for it."""
    image: str
    mask: str | None
    image_loader: Loader | None
    mask_loader: Loader | None

    def key(self) -> str:
        """What the outcome depends on: names, sizes, times of change, loaders."""
        parts: list[Any] = [VERSION]
        for path, loader in ((self.image, self.image_loader), (self.mask, self.mask_loader)):
            if path is not None and loader is not None:
                try:
                    status = os.stat(path)
                    parts += [os.path.abspath(path), status.st_size, status.st_mtime_ns, loader.flag, loader.backend]
                except OSError:
                    parts += [os.path.abspath(path), None]
        return json.dumps(parts)

    def examine(self) -> FileFacts:
        """Read both files; nothing is raised."""
        image = examine_image(self.image, self.image_loader) if self.image_loader is not None else None
        has_mask = self.mask is not None and self.mask_loader is not None
        return FileFacts(image, examine_mask(self.mask, self.mask_loader) if has_mask else None)


@dataclass
class FileFacts:
    """What was found in an image and its mask, as far as they were read."""
    image: ImageFacts | None
    mask: MaskFacts | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> FileFacts:
        image, mask = entry['image'], entry['mask']
        if mask is not None:
            mask = MaskFacts(**{**mask, 'pixels': {int(value): count for value, count in mask['pixels'].items()}})
        return cls(ImageFacts(**image) if image is not None else None, mask)


class _Examination(Dataset):
    """A data set whose samples are what was found: PyTorch's loader runs the processes."""

    def __init__(self, tasks: Sequence[Task]):
        self.tasks = tasks

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> FileFacts:
        return self.tasks[index].examine()


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)  # processes are enough


def _examine(tasks: Sequence[Task], workers: int) -> Iterator[FileFacts]:
    if not workers and len(tasks) > FEW:
        workers = min(MOST_WORKERS, os.cpu_count() or 1)
    workers = workers if len(tasks) > FEW else 0
    yield from DataLoader(_Examination(tasks), batch_size=None, num_workers=workers, collate_fn=None,
                          worker_init_fn=_start_worker if workers else None)


def read_files(tasks: Sequence[Task], workers: int = 0, cache: str | Path | None = None,
               progress: str | None = None) -> list[FileFacts]:
    """Read files and return what was found, in the order of the tasks.

    Args:
        tasks: what to read.
        workers: number of processes; 0 for as many as the number of files makes useful.
        cache: a file of earlier results, a line of JSON each; new ones are added as soon as they are there, so that an
            interrupted call goes on where it was.
        progress: what to call the progress bar; None for none.
    """
    keys = [task.key() for task in tasks] if cache is not None else []
    known = _read_cache(cache, set(keys)) if cache is not None else {}
    todo = [number for number in range(len(tasks)) if cache is None or keys[number] not in known]
    found: dict[int, FileFacts] = {number: known[key] for number, key in enumerate(keys) if key in known}
    results = _examine([tasks[number] for number in todo], workers)
    file = None
    try:
        if cache is not None and todo:
            Path(cache).parent.mkdir(parents=True, exist_ok=True)
            file = _open_cache(Path(cache))
        bar = Progress(zip(todo, results), desc=progress or '', total=len(tasks), initial=len(found), unit='image',
                       disable=progress is None)
        for number, facts in bar:
            found[number] = facts
            if file is not None:
                file.write(json.dumps([keys[number], facts.to_json()]) + '\n')
                file.flush()
    finally:
        if file is not None:
            file.close()
    return [found[number] for number in range(len(tasks))]


def _open_cache(path: Path) -> Any:
    """Open for new lines; a line that a kill cut short is closed, and skipped when it is read."""
    cut = path.is_file() and path.stat().st_size and not path.read_bytes().endswith(b'\n')
    file = path.open('a', encoding='utf-8')
    if cut:
        file.write('\n')
    return file


def _read_cache(path: str | Path, wanted: set[str]) -> dict[str, FileFacts]:
    found: dict[str, FileFacts] = {}
    if not Path(path).is_file():
        return found
    with open(path, encoding='utf-8', errors='replace') as file:
        for line in file:
            try:
                key, facts = json.loads(line)
                if key in wanted:
                    found[key] = FileFacts.from_json(facts)
            except (ValueError, TypeError, KeyError):  # cut short
                continue
    return found
