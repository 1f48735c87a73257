"""Reads the results of the analyses of runs, and runs the analyses that are missing."""
import contextlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.registry import DefaultScope

from mmparax.analysis.cka import measure_cka
from mmparax.analysis.erf import compute_square_shares, measure_erf, read_erf_maps
from mmparax.analysis.measuring import Setup, write_json
from mmparax.analysis.models import ModelSource
from mmparax.analysis.routing.measure import measure_routing
from mmparax.analysis.routing.result import build_result
from mmparax.config.files import load_config
from mmparax.errors import UserError
from mmparax.report.runs import TrainingRun
from mmparax.utils.devices import resolve_device

ADAROUTE = 'AdaRoute'
FOLDER = 'analysis'
TOOLS = dict(erf='python tools/analysis_tools/erf.py', cka='python tools/analysis_tools/cka.py',
             routing='python tools/analysis_tools/routing.py')
NUM_IMAGES = dict(erf=64, cka=128, routing=None)  # as the tools have them
BATCH_SIZE = dict(erf=8, cka=16, routing=8)


@dataclass
class AnalysisResults:
    """The results of the analyses of some runs.

    Attributes:
        results: kind -> name of a run -> content of its JSON file, reduced to the run's own model.
        maps: name of a run -> its receptive field, (S, S).
        notes: kind -> sentences on results that are outdated or could not be made.
    """
    results: dict[str, dict[str, Any]] = field(default_factory=lambda: {kind: {} for kind in TOOLS})
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in TOOLS})


def is_applicable(kind: str, run: TrainingRun) -> bool:
    """Whether an analysis applies to a run: only AdaRoute has routers."""
    return kind != 'routing' or run.method == ADAROUTE


def find_analyses(runs: Sequence[TrainingRun]) -> AnalysisResults:
    """Read the results in ``analysis/erf``, ``analysis/cka`` and ``analysis/routing`` of each run's folder."""
    found = AnalysisResults()
    for run in runs:
        for kind in TOOLS:
            if not is_applicable(kind, run):
                continue
            try:
                _read_result(found, kind, run)
            except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, zipfile.BadZipFile) as error:
                found.notes[kind].append(f'{run.name}: {FOLDER}/{kind} cannot be read ({type(error).__name__}): make '
                                         'it again.')
    return found


def _list_folders(kind: str, run: TrainingRun) -> list[Path]:
    """List the folders where the results of an analysis may be; the first is where they are written."""
    return list(dict.fromkeys([run.outer / FOLDER / kind, run.folder / FOLDER / kind]))


def _read_result(found: AnalysisResults, kind: str, run: TrainingRun) -> None:
    path = next((place / f'{kind}.json' for place in _list_folders(kind, run) if (place / f'{kind}.json').is_file()), None)
    if path is None:
        return
    result = json.loads(path.read_text(encoding='utf-8'))
    model = result
    if kind != 'routing':
        number = _find_model(result['models'], run)
        model = result['models'][number]
        if kind == 'erf':
            field_map = read_erf_maps(path.parent, result)[number]
            compute_square_shares(field_map)
            found.maps[run.name] = field_map
        result = {**result, 'model': model}
    else:
        result['adapters'][0]['groups'], result['summary']['dead_experts']
    checkpoint = Path(model['checkpoint'] or '').name
    if run.checkpoint is not None and checkpoint != run.checkpoint.name:
        found.notes[kind].append(f'{run.name}: this is of {checkpoint or "the start"}, the last checkpoint is '
                                 f'{run.checkpoint.name}.')
    elif run.checkpoint is not None and path.stat().st_mtime < run.checkpoint.stat().st_mtime:
        found.notes[kind].append(f'{run.name}: this is older than its checkpoint {checkpoint}.')
    found.results[kind][run.name] = result


def _find_model(models: Sequence[Mapping[str, Any]], run: TrainingRun) -> int:
    """Find the number of the run's model among those that were analysed together."""
    if run.checkpoint is not None:
        for number, model in enumerate(models):
            if model['checkpoint'] and Path(model['checkpoint']).resolve() == run.checkpoint:
                return number
    if len(models) > 1:
        raise ValueError('none of its models is of this checkpoint')
    return 0


def find_config_file(run: TrainingRun) -> Path:
    """Find the config file of a run for the command lines of the tools."""
    return next(iter(sorted(run.folder.glob('*.py'))), run.config_file)


def make_analyses(runs: Sequence[TrainingRun], num_images: int | None = None) -> dict[str, list[str]]:
    """Make the analyses of each run that are missing or of an earlier checkpoint; an interrupted one continues.

    Args:
        runs: those without a checkpoint are left out.
        num_images: how many images; by default as many as the tools take.

    Returns:
        kind -> sentences on analyses that could not be made.
    """
    failed: dict[str, list[str]] = {kind: [] for kind in TOOLS}
    due = [(kind, run) for kind in TOOLS for run in runs if is_applicable(kind, run) and run.checkpoint is not None]
    for number, (kind, run) in enumerate(due, 1):
        found = find_analyses([run])
        if run.name in found.results[kind] and not found.notes[kind]:
            continue  # the result of an earlier checkpoint has a note
        print(f'[{number}/{len(due)}] {kind} of {run.name}', flush=True)
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # mmengine prints the name of each checkpoint
                _make_analysis(kind, run, num_images)
        except UserError as error:
            failed[kind].append(f'{run.name}: could not be made: {error}')
        except Exception as error:  # a toolbox may raise anything; the report goes on with the other runs
            failed[kind].append(f'{run.name}: could not be made ({type(error).__name__}: {error}).')
    return failed


def _make_analysis(kind: str, run: TrainingRun, num_images: int | None) -> None:
    # Each run has its own scope: another run may have set another one.
    DefaultScope.get_instance(f'{kind}-{run.folder}', scope_name=run.cfg.get('default_scope', 'mmengine'))
    out = _list_folders(kind, run)[0]
    count, batch_size = num_images or NUM_IMAGES[kind], min(BATCH_SIZE[kind], num_images or BATCH_SIZE[kind])
    config, checkpoint = str(find_config_file(run)), str(run.checkpoint)
    if kind == 'routing':
        measurement, source = measure_routing(load_config(config), checkpoint, out, resolve_device('auto'), count, batch_size)
        write_json(out / 'routing.json', dict(source, config=config, **build_result(measurement)))
        return
    measure: Callable[[Setup], Any] = measure_erf if kind == 'erf' else measure_cka
    measure(Setup([ModelSource(run.name, config, checkpoint)], out, num_images=count, batch_size=batch_size))
