"""Scans the data of a run for the scripts: with a progress bar, then tables, and JSON if asked for."""
from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmparax.checks.data import check_datasets
from mmparax.checks.hidden_folders import leave_out_hidden_folders
from mmparax.checks.scan import ScannedDataset, check_data, raise_errors, scan_datasets
from mmparax.config.query import find_missing_downloads
from mmparax.errors import UserError
from mmparax.utils.choices import ALL, LOADERS, SAMPLE
from mmparax.utils.storage import write

MOST_CLASSES = 40  # rows of the table of classes that are shown; the file of JSON has all
SHOWN = 10  # items of a kind of problem
CACHE = 'data_scan.jsonl'  # in the work dir


def scan_run(cfg: Config, loaders: Sequence[str], amount: int | str, workers: int = 0) -> list[ScannedDataset]:
    """Scan the data of a config with a progress bar; what was read is remembered in its work dir, if it has one.

    Args:
        cfg: its data sets of class folders may be changed in place to leave out hidden ones.
        loaders: such as ``['train_dataloader', 'val_dataloader']``; those that the config has not are left out.
        amount: images of each data set to read, or ``'all'``.
        workers: processes that read; 0 for as many as the number of files makes useful.
    """
    leave_out_hidden_folders(cfg, loaders)
    work_dir, refused = cfg.get('work_dir'), []
    for loader in loaders:
        try:
            check_datasets(cfg, [loader])
        except UserError as error:
            refused.append(ScannedDataset(f'{loader}.dataset'))
            refused[-1].problems.add('data set(s) that are not as the config says', str(error))
    rest = [name for name in loaders if f'{name}.dataset' not in [entry.place for entry in refused]]
    return refused + scan_datasets(cfg, rest, None if amount == ALL else int(amount), workers,
                                   Path(work_dir, CACHE) if work_dir else None, progress=True, full=True)


def check_run_data(cfg: Config, amount: int | str | None, workers: int = 0) -> list[str]:
    """Check the data of a training run before anything is built, as the doctor does.

    Args:
        cfg: its data sets of class folders may be changed in place to leave out hidden ones.
        amount: None for the usual sample; otherwise that of :func:`scan_run`, whose tables are printed.
        workers: as for :func:`scan_run`.

    Returns:
        Warnings, a sentence each.

    Raises:
        MissingFileError: naming a folder or annotation file that is absent.
        InputError: listing what training could not run on, or would learn nothing from.
    """
    loaders = [name for name in LOADERS[:2] if cfg.get(name)]
    notes = leave_out_hidden_folders(cfg, loaders)
    check_datasets(cfg, loaders)
    if find_missing_downloads(cfg, loaders):
        return notes
    if amount is None:
        return notes + check_data(cfg, loaders, SAMPLE)
    scanned = scan_run(cfg, loaders, amount, workers)
    print_scan(scanned, Console(highlight=False))
    raise_errors(scanned)
    return notes


def print_scan(scanned: Sequence[ScannedDataset], console: Console) -> None:
    """Print the data sets, what there is of each class, and every problem."""
    table = Table()
    table.add_column('data set', no_wrap=True)
    for name in ('images', 'read', 'classes', 'ignored', 'errors', 'warnings'):
        table.add_column(name, justify='right')
    for entry in scanned:
        total = sum(entry.counts.values()) + entry.ignored
        table.add_row(_shorten(entry.place), _show(entry.images),
                      _show(entry.read) if entry.images else '-',
                      f'{sum(map(bool, entry.counts.values()))} of {len(entry.classes)}' if entry.counts else '-',
                      f'{100 * entry.ignored / total:.1f} %' if entry.unit in ('pixels', 'boxes') and total else '-',
                      str(_count(entry, 'errors')), str(_count(entry, 'warnings')))
    console.print(table)
    _print_classes(scanned, console)
    for entry in scanned:
        for problem in entry.problems:
            style = 'yellow' if problem.warning else 'bold red'
            word = 'warning' if problem.warning else 'problem'
            console.print(Text.assemble((f'{word} ', style), f'{entry.place}'), Text('\n'.join(problem.format_lines(SHOWN))),
                          sep='\n')


def _print_classes(scanned: Sequence[ScannedDataset], console: Console) -> None:
    counted = [entry for entry in scanned if entry.counts]
    names = list(dict.fromkeys(name for entry in counted for name in entry.classes))
    if not names:
        return
    table = Table()
    table.add_column('class', overflow='fold')
    for entry in counted:
        table.add_column(f'{entry.unit}\n{_shorten(entry.place)}', justify='right')
    for name in names[:MOST_CLASSES]:
        table.add_row(name, *(f'{entry.counts[name]:,}' if name in entry.counts else '-' for entry in counted))
    console.print(table)
    if len(names) > MOST_CLASSES:
        console.print(f'and {len(names) - MOST_CLASSES} more classes (--json FILE has all)')


def _shorten(place: str) -> str:
    """``'train'`` for ``'train_dataloader.dataset'``; a part of several keeps its place in the wrapper."""
    return place.replace('_dataloader.dataset', '', 1)


def _show(number: int | None) -> str:
    return '-' if number is None else f'{number:,}'


def _count(entry: ScannedDataset, kind: str) -> int:
    return sum(problem.count for problem in getattr(entry.problems, kind))


def count_errors(scanned: Sequence[ScannedDataset]) -> int:
    """Number of problems that are not only warnings."""
    return sum(_count(entry, 'errors') for entry in scanned)


def write_scan(scanned: Sequence[ScannedDataset], path: str | Path, config: str) -> None:
    """Write everything that was found, as JSON.

    Args:
        scanned: what was found.
        path: file to write.
        config: name of the config, which is written, too.

    Raises:
        StorageError: if it cannot be written.
    """
    content: dict[str, Any] = dict(config=config, errors=count_errors(scanned),
                                   warnings=sum(_count(entry, 'warnings') for entry in scanned),
                                   datasets=[entry.to_json() for entry in scanned])
    text = json.dumps(content, indent=1, ensure_ascii=False) + '\n'
    write(path, text.encode(), remedy='Choose another file.')
