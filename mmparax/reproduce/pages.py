"""Writes a report as Markdown or as one HTML file that needs nothing else."""
from html import escape
from pathlib import Path
from typing import List, Sequence

from mmparax.errors import ParameterError
from mmparax.reproduce.report import Report, Section, Value
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


def check_suffix(path: str) -> Path:
    """Return the path of a report, else raise InputError."""
    if Path(path).suffix not in ('.md', '.html'):
        raise ParameterError('--report', path, 'its name must end in .md or .html')
    return Path(path)


def write_report(report: Report, path: Path) -> None:
    """Write a report; the suffix says how."""
    make = html if path.suffix == '.html' else markdown
    title = "The paper's tables " + ('at tiny scale' if report.tiny else '– published and measured here')
    write(path, make(title, report.introduction(), report.sections()).encode(), REMEDY)


def _md(text: str) -> str:
    return text.replace('|', '\\|')


def markdown(title: str, introduction: Sequence[str], sections: Sequence[Section]) -> str:
    """Headings and pipe tables."""

    def value(field: Value) -> str:
        return ''.join(_md(text) if link is None else f'[{_md(text)}]({link.replace(" ", "%20")})'
                       for text, link in field.pieces)

    lines: List[str] = [f'# {title}', '']
    for sentence in introduction:
        lines += [sentence, '']
    for section in sections:
        lines += [f'## {section.title}', '', '| ' + ' | '.join(map(_md, section.header)) + ' |',
                  '|---' * len(section.header) + '|']
        lines += ['| ' + ' | '.join(map(value, row)) + ' |' for row in section.rows]
        lines += ['', *(f'- {note}' for note in section.notes), *([''] if section.notes else [])]
    return '\n'.join(lines).rstrip() + '\n'


def html(title: str, introduction: Sequence[str], sections: Sequence[Section]) -> str:
    """One file; light or dark as the reader's system is."""

    def value(field: Value) -> str:
        text = ''.join(escape(text) if link is None else f'<a href="{escape(link)}">{escape(text)}</a>'
                       for text, link in field.pieces)
        return f'<td class="{field.kind}">{text}</td>' if field.kind else f'<td>{text}</td>'

    parts = [f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
             f'<meta name="viewport" content="width=device-width">\n<style>{STYLE}</style>\n</head>\n<body>\n'
             f'<h1>{escape(title)}</h1>']
    parts += [f'<p>{escape(sentence)}</p>' for sentence in introduction]
    for section in sections:
        parts.append(f'<h2>{escape(section.title)}</h2>\n<div class="wide"><table>\n<tr>'
                     + ''.join(f'<th>{escape(name)}</th>' for name in section.header) + '</tr>')
        parts += ['<tr>' + ''.join(map(value, row)) + '</tr>' for row in section.rows]
        parts.append('</table></div>')
        if section.notes:
            parts.append('<ul>' + ''.join(f'<li>{escape(note)}</li>' for note in section.notes) + '</ul>')
    return '\n'.join(parts) + '\n</body>\n</html>\n'
