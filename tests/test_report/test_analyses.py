"""Analyses that are missing or damaged."""
from helpers.reported import Page, make_page, make_run
from mmparax.report.analyses import find_analyses
from mmparax.report.runs import gather_runs
from mmparax.report.sections.common import format_command


def test_what_is_missing_names_the_command_that_makes_it(three, tmp_path, monkeypatch):
    page = ' '.join(Page(make_page(three[0])).words)
    for tool in ('erf.py', 'cka.py', 'routing.py', 'benchmark.py'):
        assert f'python tools/analysis_tools/{tool}' in page
    assert 'No validation was logged' in page and 'No predictions were asked for' in page
    monkeypatch.chdir(three[0].parent)
    run, = gather_runs([three[0].name])
    arguments = 'a0/some-config.py CHECKPOINT --out-dir a0/analysis/erf'
    assert format_command('erf', run) == f'python tools/analysis_tools/erf.py {arguments}'
    assert 'is about AdaRoute' in make_page(three[1])


def test_a_damaged_analysis_is_a_note(tmp_path, scenes):
    folder = make_run(tmp_path / 'run', scenes)
    for kind, content in (('erf', '{"models": []}'), ('cka', '{'), ('routing', '[]')):
        (folder / 'analysis' / kind).mkdir(parents=True)
        (folder / 'analysis' / kind / f'{kind}.json').write_text(content)
    found = find_analyses(gather_runs([str(folder)]))
    assert not any(found.results.values()) and all('cannot be read' in text for text, in found.notes.values())
    assert 'cannot be read' in make_page(folder)
