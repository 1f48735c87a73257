"""The C compiler of this machine."""
import os
import shlex
import shutil
import sys


def find_compiler() -> list[str] | None:
    """The command of the C compiler: ``$CC``, which may have arguments, or gcc, clang or cc, the first that there is.

    Returns:
        list[str] | None: the words; None without a compiler, and on systems other than Linux.
    """
    if not sys.platform.startswith('linux'):
        return None
    given = os.environ.get('CC', '').strip()
    for command in [given] if given else ['gcc', 'clang', 'cc']:
        try:
            program, *arguments = shlex.split(command)
        except ValueError:  # a quotation mark without its other
            continue
        found = shutil.which(program)
        if found:
            return [found, *arguments]
    return None
