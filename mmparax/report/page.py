"""Puts the report together."""
import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from mmparax.report.analyses import AnalysisResults
from mmparax.report.charts import DASHES
from mmparax.report.content import NONE, ReportSection
from mmparax.report.groups import group_runs
from mmparax.report.runs import TrainingRun
from mmparax.report.samples import sample_predictions
from mmparax.report.sections.benchmark_tables import build_benchmark
from mmparax.report.sections.experts import build_routing
from mmparax.report.sections.features import build_receptive_fields, build_similarity
from mmparax.report.sections.gallery import build_predictions
from mmparax.report.sections.origin import build_provenance, build_settings
from mmparax.report.sections.overview import build_overview, count_groups
from mmparax.report.sections.training import build_curves, build_logged_speed, build_parameters
from mmparax.version import __version__

TEMPLATE = 'report.html'
LONG_WORD = 14  # characters


def render_page(title: str, subtitle: str, sections: Sequence[ReportSection]) -> str:
    """Render the report as HTML; all text from files is escaped."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
                              keep_trailing_newline=True)
    environment.filters.update(add_breaks=add_breaks, is_numeric=is_numeric)
    return environment.get_template(TEMPLATE).render(
        title=title, subtitle=subtitle, sections=sections, version=__version__,
        dashes=['' if dash == '-' else ' '.join(f'{3 * length:g}' for length in dash[1]) for dash in DASHES])


def add_breaks(text: str) -> Markup:
    """Allow line breaks in long words of a text, behind dots, hyphens, slashes and underscores."""
    return Markup('').join(
        Markup('').join(part + Markup('<wbr>') if part in '._/-' else escape(part)
                        for part in re.split('([._/-])', word)) if len(word) > LONG_WORD else escape(word)
        for word in re.split('( )', text))


def is_numeric(text: str) -> bool:
    """Whether a field of a table holds a number or nothing, and is set to the right."""
    return not text or text == NONE or text[0] in '0123456789+-'


def make_report(runs: Sequence[TrainingRun], found: AnalysisResults, arguments: Sequence[str], num_images: int = 4,
                benchmarks: Sequence[Path] = (), title: str | None = None) -> str:
    """Make the report on some runs, as HTML.

    Args:
        runs: from :func:`mmparax.report.runs.gather_runs`.
        found: results of their analyses.
        arguments: of the command, which the page shows.
        num_images: how many test images each run predicts.
        benchmarks: JSON files of tools/analysis_tools/benchmark.py.
        title: heading; by default the methods.
    """
    groups = group_runs(runs)
    counts = count_groups(groups)
    galleries = sample_predictions([run for group in groups for run in group.runs], num_images) if num_images else []
    sections = [
        build_overview(groups, counts),
        build_curves(groups),
        build_parameters(groups, counts),
        ReportSection('speed', 'Speed', [*build_logged_speed(groups), *build_benchmark(benchmarks)]),
        build_receptive_fields(groups, found),
        build_similarity(groups, found),
        build_routing(groups, found),
        build_predictions(groups, galleries),
        build_settings(groups),
        build_provenance(groups, arguments)
    ]
    labels = [group.label for group in groups]
    title = title or (', '.join(labels) if len(labels) < 5 else f'{len(labels)} settings compared')
    subtitle = f'{len(runs)} run{"s" * (len(runs) > 1)}, reported {date.today().isoformat()}'
    return render_page(title, subtitle, sections)
