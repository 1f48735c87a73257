"""The results of the benchmark: rows with ratios, the table, the chart, and the facts of the machine."""
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.table import Table

from mmparax.benchmark.candidates import FULL, PLAIN
from mmparax.benchmark.timing import OUT_OF_MEMORY, Measurement, Workload
from mmparax.utils.tables import render_table
from mmparax.version import __version__

NONE = '–'
GB = 1e9
COLORS = {'full': '#4a5568', 'adaroute': '#2b6cb0'}  # of the chart; the others are grey
GREY = '#a0a8b4'

TO_PLAIN = {method: f'ratio_to_{method}'.replace('-', '_') for method in PLAIN}  # names of speeds relative to these


@dataclass
class Comparison:
    """The measurements of one backbone side by side.

    Args:
        backbone: its name.
        work: what every candidate did.
        measurements: one for each candidate, in order.
        with_cp: whether activations were recomputed.
        stopped: why there are fewer rounds than planned, or None.
    """
    backbone: str
    work: Workload
    measurements: Sequence[Measurement]
    with_cp: bool = False
    stopped: str | None = None

    def build_rows(self) -> list[dict[str, Any]]:
        """Plain numbers of each candidate, ratios included; None where nothing was measured."""
        return [self.build_row(measurement) for measurement in self.measurements]

    def build_row(self, measurement: Measurement) -> dict[str, Any]:
        candidate, batch = measurement.candidate, self.work.batch
        others = {
            other.candidate.method: other for other in self.measurements
            if other.candidate.method in (FULL, *PLAIN) and other.candidate.dtype == candidate.dtype
        }
        full, seconds = others.get(FULL), measurement.compute_median_step()

        def ratio_to(method: str) -> float | None:
            other = others[method].compute_median_step() if method in others else None
            return other / seconds if seconds and other else None

        memory, full_memory = measurement.peak, full and full.peak
        return dict(method=candidate.method, efficient_attention=candidate.efficient_attention, ops=candidate.ops,
                    dtype=candidate.dtype, trainable_parameters=measurement.trainable, images_per_second=seconds
                    and batch / seconds, images_per_second_min=batch / max(measurement.training) if seconds else None,
                    images_per_second_max=batch / min(measurement.training) if seconds else None, milliseconds_per_step=seconds
                    and seconds * 1e3, ratio_to_full=ratio_to(FULL), **{
                        key: ratio_to(method) for method, key in TO_PLAIN.items()
                    }, published_ratio_to_full=candidate.published, peak_memory_bytes=memory, resident_bytes=measurement.resident,
                    memory_ratio_to_full=memory / full_memory if memory and full_memory else None,
                    inference_images_per_second=batch / median(measurement.inference) if measurement.inference else None,
                    rounds=len(measurement.training), turns_with_skipped_optimizer_steps=measurement.skipped,
                    error=measurement.error, training_seconds=measurement.training, inference_seconds=measurement.inference)

    def format_title(self) -> str:
        height, width = self.work.size
        dtypes = dict.fromkeys(measurement.candidate.dtype for measurement in self.measurements)
        return (f'{self.backbone}, {height}x{width}, batch {self.work.batch}, {", ".join(dtypes)}, {self.work.device.type}' +
                (', torch.compile' if self.work.compile else '') + (', activations recomputed' if self.with_cp else ''))

    def to_dict(self) -> dict[str, Any]:
        work = self.work
        return dict(backbone=self.backbone, size=list(work.size), batch=work.batch, device=work.device.type, rounds=work.rounds,
                    warmup=work.warmup, steps_per_turn=work.steps, compile=work.compile, with_cp=self.with_cp,
                    stopped=self.stopped, rows=self.build_rows())

    def format_table(self, width: int = 200) -> str:
        """The rows as text. Columns in which no row has anything are left out."""
        rows = self.build_rows()
        several = len({row['dtype'] for row in rows}) > 1
        slow = any((row['milliseconds_per_step'] or 0) > 100 for row in rows)
        columns: dict[str, Callable[[dict[str, Any]], str]] = {
            'method': lambda row: row['method'],
            'dtype': lambda row: row['dtype'] if several else NONE,
            'efficient\nattention': lambda row: {None: NONE, True: 'on', False: 'off'}[row['efficient_attention']],
            'ops': lambda row: row['ops'] or NONE,
            'trainable,\nM': lambda row: format_number(row['trainable_parameters'], '.3f', 1e6),
            'img/s': lambda row: format_number(row['images_per_second'], '.3g'),
            'min to max': lambda row: NONE
            if row['images_per_second'] is None else f'{row["images_per_second_min"]:.3g} to {row["images_per_second_max"]:.3g}',
            'ms\na step': lambda row: format_number(row['milliseconds_per_step'], '.0f' if slow else '.1f'),
            'ratio\nto full': lambda row: format_number(row['ratio_to_full'], '.3f'),
            **dict(map(build_ratio_column, TO_PLAIN)),
            'published\nratio (L40S)': lambda row: format_number(row['published_ratio_to_full'], '.3f'),
            'peak\nGB': lambda row: format_number(row['peak_memory_bytes'], '.3f', GB),
            'memory\nto full': lambda row: format_number(row['memory_ratio_to_full'], '.3f'),
            'inference,\nimg/s': lambda row: format_number(row['inference_images_per_second'], '.3g'),
            'note': lambda row: row['error'] or
            (f'turns with skipped optimizer steps: {row["turns_with_skipped_optimizer_steps"]}'
             if row['turns_with_skipped_optimizer_steps'] else NONE),
        }
        table = Table(title=f'{self.format_title()}: measured here')
        shown: list[list[str]] = []
        for name, show in columns.items():
            texts = [show(row) for row in rows]
            if name != 'img/s' and set(texts) <= {NONE}:
                continue
            left = name in ('method', 'dtype', 'efficient\nattention', 'ops', 'note')
            table.add_column(name, justify='left' if left else 'right', no_wrap=name != 'note', max_width=60)
            shown.append(texts)
        for fields in zip(*shown):
            table.add_row(*fields)
        return render_table(table, width) + (f'\n{self.stopped}.' if self.stopped else '')


def build_ratio_column(method: str) -> tuple[str, Callable[[dict[str, Any]], str]]:
    """(name, text of a row) of the column with the speed relative to a plain method's."""
    key = TO_PLAIN[method]
    return f'to {method}'.replace('-', '\n'), lambda row: format_number(row[key], '.3f')


def format_number(value: float | None, form: str, unit: float = 1) -> str:
    return NONE if value is None else f'{value / unit:{form}}'


def describe_environment(device: torch.device, threads: int, command: str) -> dict[str, Any]:
    """What the numbers depend on besides the settings; nothing that names the machine or its folders."""
    cuda = device.type == 'cuda'
    return dict(command=command, device=torch.cuda.get_device_name(device) if cuda else name_processor(), threads=threads,
                cores=count_cores(), device_memory_bytes=torch.cuda.get_device_properties(device).total_memory if cuda else None,
                python=platform.python_version(), system=platform.system(), torch=torch.__version__,
                cuda=torch.version.cuda if cuda else None, cudnn=torch.backends.cudnn.version() if cuda else None,
                tf32=torch.backends.cuda.matmul.allow_tf32 if cuda else None,
                cudnn_benchmark=torch.backends.cudnn.benchmark if cuda else None,
                cpu_capability=torch.backends.cpu.get_cpu_capability(), triton=find_version('triton'),
                mmpretrain=find_version('onedl-mmpretrain') or find_version('mmpretrain'), mmparax=__version__)


def count_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()


def find_version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def name_processor() -> str:
    """The name of the CPU."""
    info = Path('/proc/cpuinfo')
    if info.is_file():
        for line in info.read_text(encoding='utf-8').splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()


def draw_chart(comparisons: Sequence[Comparison]) -> Figure:
    """Bars of speed and of memory for each backbone, both relative to full fine-tuning where that was measured."""
    most = max(len(comparison.measurements) for comparison in comparisons)
    figure = Figure(figsize=(12, len(comparisons) * (1.3 + 0.34 * most)), layout='constrained')
    grid = figure.subplots(len(comparisons), 2, squeeze=False, sharey='row')
    for (speed, memory), comparison in zip(grid, comparisons):
        rows = comparison.build_rows()
        names = [measurement.candidate.label for measurement in comparison.measurements]
        several = len({row['dtype'] for row in rows}) > 1
        names = names if several else [name.rpartition(', ')[0] for name in names]
        colors = [COLORS.get(row['method'], GREY) for row in rows]
        published = [row['published_ratio_to_full'] for row in rows]
        _draw_bars(speed, rows, names, colors, 'ratio_to_full', 'images_per_second', 1, 'training speed', 'images/s', published)
        _draw_bars(memory, rows, names, colors, 'memory_ratio_to_full', 'peak_memory_bytes', GB, 'peak memory', 'GB')
        speed.set_title(f'{comparison.format_title()}: speed, measured here', fontsize=10)
        memory.set_title('memory, measured here', fontsize=10)
    return figure


def _draw_bars(axes: Any, rows: Sequence[dict[str, Any]], names: Sequence[str], colors: Sequence[str], ratio: str, plain: str,
               unit: float, what: str, unit_name: str, published: Sequence[float | None] = ()) -> None:
    """One panel: ratios, with published ones as diamonds, if there are any, else plain values; numbers at the right."""
    relative = any(row[ratio] is not None for row in rows)
    values = [(row[ratio] if relative else row[plain] and row[plain] / unit) or 0 for row in rows]
    axes.barh(range(len(rows)), values, color=colors)
    axes.set_yticks(range(len(rows)), names)
    if not axes.yaxis_inverted():
        axes.invert_yaxis()
    label = f'{what}, full fine-tuning = 1' if relative else f'{what}, {unit_name}'
    marks = [(value, y) for y, value in enumerate(published) if value and relative]
    if marks:
        axes.plot(*zip(*marks), 'D', markerfacecolor='white', markeredgecolor='black')
        label += '; diamonds: published (NVIDIA L40S)'
    widest = max([*values, *(value for value, _ in marks), 1e-9])
    for y, (row, value) in enumerate(zip(rows, values)):
        if row[plain] is None:
            text = 'not measured' if row['error'] is None else OUT_OF_MEMORY if row['error'] == OUT_OF_MEMORY else 'failed'
        else:
            text = f'{row[plain] / unit:.3g} {unit_name}'
            text = f'{value:.2f}  ({text})' if relative else text
        axes.text(1.6 * widest, y, text, va='center', ha='right', fontsize=8)
    axes.set_xlim(0, 1.62 * widest)
    axes.set_xlabel(label)
    if relative:
        axes.axvline(1, color='black', linewidth=0.8, linestyle=':')
    axes.spines[['top', 'right']].set_visible(False)
