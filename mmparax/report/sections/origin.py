"""The sections about settings that differ, and about where the numbers come from."""
import platform
import shlex
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version

import torch

from mmparax.report.content import NONE, Paragraph, ReportSection, ReportTable, TableField
from mmparax.report.groups import SEED, RunGroup, find_differences, shorten_path
from mmparax.version import __version__


def build_settings(groups: Sequence[RunGroup]) -> ReportSection:
    """Build the section with the settings of the configs that are not the same everywhere."""
    section = ReportSection('settings', 'Settings that differ')
    if len(groups) == 1:
        section.blocks.append(
            Paragraph('There is one setting' +
                      (f'; its runs differ in {SEED} only.' if len(groups[0].runs) > 1 else ', so there is nothing to compare.')))
    else:
        section.blocks.append(
            ReportTable('The settings of the configs that are not the same in all of them; paths of outputs and seeds left out.',
                        ['setting', *(group.label for group in groups)],
                        [[name, *values] for name, values in find_differences(groups).items()], prose=True))
    return section


def build_provenance(groups: Sequence[RunGroup], arguments: Sequence[str]) -> ReportSection:
    """Build the section about where the numbers come from.

    Args:
        groups: the runs.
        arguments: of the command that makes the report.
    """
    runs = [(group, run) for group in groups for run in group.runs]
    section = ReportSection('provenance', 'Where this comes from')
    words = ['='.join(map(shorten_path, argument.split('=', 1))) for argument in arguments]
    command = shlex.join(['python', 'tools/analysis_tools/report.py', *words])
    section.blocks.append(
        ReportTable('This report.', ['what', 'value'],
                    [['made on', datetime.now(timezone.utc).strftime('%Y-%m-%d %H:%M UTC')], ['command', command],
                     ['mmparax', __version__], ['torch', torch.__version__], ['Python', platform.python_version()],
                     ['matplotlib', version('matplotlib')]], prose=True))
    section.blocks.append(
        ReportTable('The runs, by their logs.',
                    ['run', 'trained on', 'started', 'torch', 'mmengine', 'mmparax', 'device', 'seed', 'config'], [[
                        TableField(run.name, number=group.number), run.started or NONE,
                        f'{len(run.sessions)} times' if len(run.sessions) > 1 else 'once' if run.sessions else NONE,
                        run.environment.get('torch', NONE),
                        run.environment.get('mmengine', NONE),
                        str(run.result.get('version', NONE)), run.device or NONE, NONE if run.seed is None else str(run.seed),
                        next((path.name for path in sorted(run.folder.glob('*.py'))), NONE)
                    ] for group, run in runs], prose=True))
    return section
