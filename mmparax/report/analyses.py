"""Finds what the analyses of the runs have written, and makes what is missing."""
import contextlib
import io
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

import numpy as np
from mmengine.registry import DefaultScope

from mmparax.analysis.cka import measure_cka
from mmparax.analysis.erf import contained, measure_erf, read_maps
from mmparax.analysis.features import Source, checked_device
from mmparax.analysis.measuring import Setup, write_json
from mmparax.analysis.routing_result import as_result
from mmparax.analysis.routing_run import look
from mmparax.config.files import load_config
from mmparax.errors import UserError
from mmparax.report.gather import Run

ADAROUTE = 'AdaRoute'
FOLDER = 'analysis'
TOOLS = dict(erf='python tools/analysis_tools/erf.py', cka='python tools/analysis_tools/cka.py',
             routing='python tools/analysis_tools/routing.py')
IMAGES, BATCH = dict(erf=64, cka=128, routing=None), dict(erf=8, cka=16, routing=8)  # as the tools have them


@dataclass
class Found:
    """The results of the analyses of some runs.

    Attributes:
        results: kind -> name of a run -> content of its JSON file, reduced to the run's own model.
        maps: name of a run -> its receptive field, (S, S).
        notes: kind -> sentences on what is outdated or could not be made.
    """
    results: Dict[str, Dict[str, Any]] = field(default_factory=lambda: {kind: {} for kind in TOOLS})
    maps: Dict[str, np.ndarray] = field(default_factory=dict)
    notes: Dict[str, List[str]] = field(default_factory=lambda: {kind: [] for kind in TOOLS})


def applies(kind: str, run: Run) -> bool:
    """Whether an analysis can be made of a run: only AdaRoute has routers."""
    return kind != 'routing' or run.method == ADAROUTE


def find_analyses(runs: Sequence[Run]) -> Found:
    """Read what ``analysis/erf``, ``analysis/cka`` and ``analysis/routing`` of each run's folder hold."""
    found = Found()
    for run in runs:
        for kind in TOOLS:
            if not applies(kind, run):
                continue
            try:
                _read(found, kind, run)
            except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, zipfile.BadZipFile) as error:
                found.notes[kind].append(f'{run.name}: what {FOLDER}/{kind} holds cannot be read ({type(error).__name__}): '
                                         'make it again.')
    return found


def _places(kind: str, run: Run) -> List[Path]:
    """Where the results of an analysis may be; the first is where they are put."""
    return list(dict.fromkeys([run.outer / FOLDER / kind, run.folder / FOLDER / kind]))


def _read(found: Found, kind: str, run: Run) -> None:
    path = next((place / f'{kind}.json' for place in _places(kind, run) if (place / f'{kind}.json').is_file()), None)
    if path is None:
        return
    result = json.loads(path.read_text(encoding='utf-8'))
    model = result
    if kind != 'routing':
        number = _own(result['models'], run)
        model = result['models'][number]
        if kind == 'erf':
            field_map = read_maps(path.parent, result)[number]
            contained(field_map)
            found.maps[run.name] = field_map
        result = {**result, 'model': model}
    else:
        result['adapters'][0]['groups'], result['summary']['dead_experts']
    of = Path(model['checkpoint'] or '').name
    if run.checkpoint is not None and of != run.checkpoint.name:
        found.notes[kind].append(f'{run.name}: this is of {of or "the start"}, the last checkpoint is {run.checkpoint.name}.')
    elif run.checkpoint is not None and path.stat().st_mtime < run.checkpoint.stat().st_mtime:
        found.notes[kind].append(f'{run.name}: this is older than its checkpoint {of}.')
    found.results[kind][run.name] = result


def _own(models: Sequence[Mapping[str, Any]], run: Run) -> int:
    """Which of several models that were looked at together is the run's."""
    if run.checkpoint is not None:
        for number, model in enumerate(models):
            if model['checkpoint'] and Path(model['checkpoint']).resolve() == run.checkpoint:
                return number
    if len(models) > 1:
        raise ValueError('none of its models is of this checkpoint')
    return 0


def config_of(run: Run) -> Path:
    """The config file for the command lines of the tools."""
    return next(iter(sorted(run.folder.glob('*.py'))), run.config_file)


def make_analyses(runs: Sequence[Run], images: Optional[int] = None) -> Dict[str, List[str]]:
    """Make the analyses of each run that are not there or of an earlier checkpoint; what was begun goes on.

    Args:
        runs: those without a checkpoint are left out.
        images: how many images to look at; by default as many as the tools do.

    Returns:
        kind -> sentences on what could not be made.
    """
    failed: Dict[str, List[str]] = {kind: [] for kind in TOOLS}
    wanted = [(kind, run) for kind in TOOLS for run in runs if applies(kind, run) and run.checkpoint is not None]
    for number, (kind, run) in enumerate(wanted, 1):
        found = find_analyses([run])
        if run.name in found.results[kind] and not found.notes[kind]:
            continue  # an earlier checkpoint's has a note
        print(f'[{number}/{len(wanted)}] {kind} of {run.name}', flush=True)
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # the loader of checkpoints says each one's name
                _make(kind, run, images)
        except UserError as error:
            failed[kind].append(f'{run.name}: could not be made: {error}')
        except Exception as error:  # whatever a toolbox says: the rest of the report is still wanted
            failed[kind].append(f'{run.name}: could not be made ({type(error).__name__}: {error}).')
    return failed


def _make(kind: str, run: Run, images: Optional[int]) -> None:
    # A name of its own: another run may have set another scope.
    DefaultScope.get_instance(f'{kind}-{run.folder}', scope_name=run.cfg.get('default_scope', 'mmengine'))
    out = _places(kind, run)[0]
    count, batch = images or IMAGES[kind], min(BATCH[kind], images or BATCH[kind])
    config, checkpoint = str(config_of(run)), str(run.checkpoint)
    if kind == 'routing':
        cfg = load_config(config)
        looked, source = look(cfg, checkpoint, out, checked_device('auto'), count, batch)
        write_json(out / 'routing.json', dict(source, config=config, **as_result(looked)))
        return
    measure: Callable[[Setup], Any] = measure_erf if kind == 'erf' else measure_cka
    measure(Setup([Source(run.name, config, checkpoint)], out, num_images=count, batch_size=batch))
