"""Progress on a terminal and in a file."""
import io
import os
import pty
import re

import pytest

from mmparax.utils import progress
from mmparax.utils.progress import Progress


@pytest.fixture
def plain():
    return io.StringIO()


def test_a_file_gets_few_plain_lines(plain, monkeypatch):
    now = [0.]
    monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
    with Progress(total=4, desc='training', file=plain, mininterval=0) as bar:
        for _ in range(4):
            now[0] += 16
            bar.update()
    lines = plain.getvalue().splitlines()
    assert len(lines) == 2 and lines[0].startswith('training: 2 of 4, ') and lines[1].startswith('training: done in ')
    assert '\r' not in plain.getvalue()


@pytest.mark.parametrize('steps, said', [(3, 'ended at 3 of 4 in 00:00'), (4, 'done in 00:00'), (0, 'ended at 0 of 4 in 00:00')])
def test_the_end_says_how_far_it_came(plain, steps, said):
    with Progress(total=4, desc='reading', file=plain) as bar:
        bar.update(steps)
    assert plain.getvalue() == f'reading: {said}\n'


@pytest.mark.parametrize('options', [dict(disable=True), dict(leave=False)])
def test_what_is_not_to_be_shown_is_not(plain, options):
    assert list(Progress(range(3), file=plain, **options)) == [0, 1, 2] and plain.getvalue() == ''


def test_a_terminal_gets_a_bar_with_the_time_that_is_left():
    outer, inner = pty.openpty()
    with open(inner, 'w') as terminal, Progress(total=4, desc='training', file=terminal, mininterval=0) as bar:
        bar.set_left(90)
        bar.update()
    text = os.read(outer, 100_000).decode()
    assert 'training     0% |' in text and '1/4' in text and re.search('01:(30|29) left', text)
