"""What the sections about analyses share."""
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmparax.report.analyses import FOLDER, TOOLS, AnalysisResults, find_config_file, is_applicable
from mmparax.report.content import NONE, MissingPart, NoteList
from mmparax.report.groups import RunGroup, shorten_path, shorten_paths
from mmparax.report.runs import TrainingRun
from mmparax.utils.tables import format_mean_and_spread


def collect_results(kind: str, found: AnalysisResults, groups: Sequence[RunGroup]) -> dict[int, list[Any]]:
    """Collect the results of an analysis: number of a group -> those of its runs; groups without any are left out."""
    results = {
        group.number: [found.results[kind][run.name] for run in group.runs if run.name in found.results[kind]] for group in groups
    }
    return {number: values for number, values in results.items() if values}


def list_missing(kind: str, what: str, found: AnalysisResults, groups: Sequence[RunGroup]) -> list[Any]:
    """List what is missing of an analysis, with the command that makes it.

    Args:
        kind: of the analysis.
        what: its name in a sentence.
        found: the results that are there.
        groups: all runs.
    """
    runs = [run for group in groups for run in group.runs if is_applicable(kind, run) and run.name not in found.results[kind]]
    blocks: list[Any] = [NoteList(list(map(shorten_paths, found.notes[kind])))] if found.notes[kind] else []
    if runs:
        names = ', '.join(run.name for run in runs[:3]) + (f' and {len(runs) - 3} more' if len(runs) > 3 else '')
        blocks.append(
            MissingPart(
                f'{what} not measured: {names}. This command measures the first of them; '
                'the tool of this report can measure all.', format_command(kind, runs[0])))
    return blocks


def format_command(kind: str, run: TrainingRun) -> str:
    """Format the command line that makes an analysis of a run; WORK_DIR stands for folders of this machine."""
    here = Path.cwd()

    def format_path(path: Path) -> str:
        if path.is_relative_to(here):
            return shlex.quote(str(path.relative_to(here)))
        inside = path.is_relative_to(run.outer)
        return shlex.quote(f'WORK_DIR/{path.relative_to(run.outer)}' if inside else shorten_path(str(path)))

    checkpoint = format_path(run.checkpoint) if run.checkpoint else 'CHECKPOINT'
    return f'{TOOLS[kind]} {format_path(find_config_file(run))} {checkpoint} --out-dir {format_path(run.outer / FOLDER / kind)}'


def warn_of_conditions(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Warn in a sentence if results were not measured under the same conditions."""
    differing = [name.replace('_', ' ') for name in names if len({str(result.get(name)) for result in results}) > 1]
    return f' They were not measured alike: {", ".join(differing)} differ, so compare them with care.' if differing else ''


def describe_seeds(results: Mapping[int, Sequence[Any]]) -> str:
    """Say in a sentence that numbers are means over seeds, if they are."""
    return ' Mean ± standard deviation over seeds.' if any(len(values) > 1 for values in results.values()) else ''


def format_mean(values: Sequence[float | None], digits: int = 3) -> str:
    """Format mean and spread of those values that are not None."""
    known = [value for value in values if value is not None]
    return format_mean_and_spread(known, digits) if known else NONE


def to_array(rows: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Turn rows into an array with nan for None; short rows are filled up with nan."""
    width = max(map(len, rows))
    return np.array([[np.nan if value is None else value for value in row] + [np.nan] * (width - len(row)) for row in rows])
