"""The tables of the benchmark's results."""
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmparax.report.content import NONE, MissingPart, NoteList, ReportTable
from mmparax.report.groups import shorten_path

# Column -> its text for a row of the JSON file; None or '' if there is none.
COLUMNS: dict[str, Callable[[Mapping[str, Any]], str | None]] = {
    'efficient attention': lambda row: {True: 'on', False: 'off'}.get(row['efficient_attention']),
    'operations': lambda row: row['ops'],
    'precision': lambda row: row['dtype'],
    'images / s': lambda row: row['error'] or _format_number(row['images_per_second'], '.3g'),
    'speed, full = 1': lambda row: _format_number(row['ratio_to_full'], '.3f'),
    'speed, published (L40S)': lambda row: _format_number(row['published_ratio_to_full'], '.3f'),
    'peak memory, GB': lambda row: _format_number(row['peak_memory_bytes'], '.3f', 1e9),
    'memory, full = 1': lambda row: _format_number(row['memory_ratio_to_full'], '.3f'),
    'inference, images / s': lambda row: _format_number(row['inference_images_per_second'], '.3g'),
}


def build_benchmark(files: Sequence[Path]) -> list[Any]:
    """Build the tables of the benchmark's JSON files."""
    blocks: list[Any] = []
    for file in files:
        try:
            content = json.loads(file.read_text(encoding='utf-8'))
            blocks += [_tabulate(content, comparison) for comparison in content['comparisons']]
        except (OSError, ValueError, KeyError, TypeError) as error:
            blocks.append(NoteList([f'{shorten_path(str(file))} is no result of the benchmark ({type(error).__name__}).']))
    if not files:
        blocks.append(
            MissingPart(
                'No benchmark was found. This command times training steps of backbones side by side, on '
                'random data; the report takes work_dirs/benchmark/*.json, or the files that it is given.',
                'python tools/analysis_tools/benchmark.py --preset cpu'))
    return blocks


def _tabulate(content: Mapping[str, Any], comparison: Mapping[str, Any]) -> ReportTable:
    """Tabulate one comparison; columns without any text are left out."""
    rows, environment = comparison['rows'], content['environment']
    texts = {name: [format_column(row) for row in rows] for name, format_column in COLUMNS.items()}
    used = [name for name, values in texts.items() if any(values)]
    stopped = f' {comparison["stopped"]}.' if comparison.get('stopped') else ''
    rounds = statistics.median(row['rounds'] for row in rows)
    return ReportTable(
        f'Benchmark of training steps, measured here: {comparison["backbone"]}, {"x".join(map(str, comparison["size"]))} '
        f'pixels, batch {comparison["batch"]}, {environment["device"]}, {environment["threads"]} thread(s), torch '
        f'{environment["torch"]}, {rounds:g} rounds. Backbones alone, random data. "Full" is full fine-tuning.{stopped}',
        ['method', *used], [[row['method'], *(texts[name][number] or NONE for name in used)] for number, row in enumerate(rows)])


def _format_number(value: float | None, form: str, unit: float = 1) -> str | None:
    return None if value is None else f'{value / unit:{form}}'
