"""The operations in C under the sanitizers: no access outside of a tensor, no undefined behaviour."""
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.processes import run
from mmparax.ops.cpu.signatures import FUNCTIONS

PROGRAM = Path(__file__).parents[1] / 'helpers' / 'sanitized_cases.py'


def find_runtimes():
    """The sanitizers' libraries, which must be there before all others; of gcc, whose they are."""
    if shutil.which('gcc') is None:
        pytest.skip('there is no gcc here')
    found = [
        subprocess.run(['gcc', f'-print-file-name=lib{name}.so'], capture_output=True, text=True).stdout.strip()
        for name in ('asan', 'ubsan')
    ]
    if not all(Path(path).is_absolute() for path in found):
        pytest.skip('gcc has no sanitizers here')
    return found


@pytest.mark.full
def test_nothing_is_read_or_written_that_is_not_there(tmp_path):
    runtimes = find_runtimes()
    settings = dict(CC='gcc', XDG_CACHE_HOME=str(tmp_path))
    made = run([sys.executable, PROGRAM, 'compile'], PROGRAM.parents[2], **settings)
    assert made.returncode == 0, made.stdout
    # Python itself leaks by design. Both sanitizers end the process at the first fault.
    found = run([sys.executable, PROGRAM, 'run'], PROGRAM.parents[2], 1800, **settings, LD_PRELOAD=' '.join(runtimes),
                ASAN_OPTIONS='detect_leaks=0')
    assert found.returncode == 0, found.stdout
    assert found.stdout.count('nothing was found') == 4
    called = found.stdout.splitlines()[-1].split()[1:]
    assert sorted(called) == sorted(set(FUNCTIONS) - {'strip_room', 'whole_room'})
