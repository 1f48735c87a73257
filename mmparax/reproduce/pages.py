"""Writes a report as Markdown or as one HTML file that needs nothing else."""
from collections.abc import Sequence
from html import escape
from pathlib import Path

from mmparax.errors import ParameterError
from mmparax.reproduce.report import ComparisonTable, ReportField, TablesReport
from mmparax.reproduce.state import REMEDY
from mmparax.utils.storage import write

STYLE = """
:root { color-scheme: light dark; --line: #d0d7de; --soft: #57606a; --head: #f3f5f7; --mine: #0a5c36; }
@media (prefers-color-scheme: dark) { :root { --line: #3d444d; --soft: #9198a1; --head: #1c2128; --mine: #6fdc9f; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border: 1px solid var(--line); padding: .25rem .6rem; text-align: left; }
th { background: var(--head); font-weight: 600; vertical-align: bottom; }
.published { color: var(--soft); }
.measured { color: var(--mine); font-weight: 600; }
p { max-width: 60rem; }
"""


def check_report_path(report: str) -> Path:
    """Return the path of a report; raise ParameterError if it is neither Markdown nor HTML."""
    if Path(report).suffix not in ('.md', '.html'):
        raise ParameterError('report', report, 'its name must end in .md or .html')
    return Path(report)


def write_report(report: TablesReport, path: Path) -> None:
    """Write a report; the suffix says how."""
    format_page = format_html if path.suffix == '.html' else format_markdown
    title = "The paper's tables " + ('at tiny scale' if report.tiny else '– published and measured here')
    write(path, format_page(title, report.build_introduction(), report.build_tables()).encode(), REMEDY)


def _escape_pipes(text: str) -> str:
    return text.replace('|', '\\|')


def format_markdown(title: str, introduction: Sequence[str], tables: Sequence[ComparisonTable]) -> str:
    """Headings and pipe tables."""

    def format_field(field: ReportField) -> str:
        return ''.join(
            _escape_pipes(text) if link is None else f'[{_escape_pipes(text)}]({link.replace(" ", "%20")})'
            for text, link in field.pieces)

    lines: list[str] = [f'# {title}', '']
    for sentence in introduction:
        lines += [sentence, '']
    for table in tables:
        lines += [
            f'## {table.title}', '', '| ' + ' | '.join(map(_escape_pipes, table.header)) + ' |', '|---' * len(table.header) + '|'
        ]
        lines += ['| ' + ' | '.join(map(format_field, row)) + ' |' for row in table.rows]
        lines += ['', *(f'- {note}' for note in table.notes), *([''] if table.notes else [])]
    return '\n'.join(lines).rstrip() + '\n'


def format_html(title: str, introduction: Sequence[str], tables: Sequence[ComparisonTable]) -> str:
    """One file; light or dark as the reader's system is."""

    def format_field(field: ReportField) -> str:
        text = ''.join(
            escape(text) if link is None else f'<a href="{escape(link)}">{escape(text)}</a>' for text, link in field.pieces)
        return f'<td class="{field.kind}">{text}</td>' if field.kind else f'<td>{text}</td>'

    parts = [
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{STYLE}</style>\n</head>\n<body>\n'
        f'<h1>{escape(title)}</h1>'
    ]
    parts += [f'<p>{escape(sentence)}</p>' for sentence in introduction]
    for table in tables:
        parts.append(f'<h2>{escape(table.title)}</h2>\n<div class="wide"><table>\n<tr>'
                     + ''.join(f'<th>{escape(name)}</th>' for name in table.header) + '</tr>')
        parts += ['<tr>' + ''.join(map(format_field, row)) + '</tr>' for row in table.rows]
        parts.append('</table></div>')
        if table.notes:
            parts.append('<ul>' + ''.join(f'<li>{escape(note)}</li>' for note in table.notes) + '</ul>')
    return '\n'.join(parts) + '\n</body>\n</html>\n'
