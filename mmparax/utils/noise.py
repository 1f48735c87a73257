"""What third parties print without being asked, silenced in this one place; every script calls it before its job.

- mmseg, mmdet and mmpretrain say "Could not import OneDL": a message of the debug level, which they print whatever the level is.
  mmengine's ``print_log`` without a logger prints from the level INFO on.
- mmengine's runner prints environment, config and the list of hooks, some 800 lines: they are in the log file alone.
- onnxruntime warns in colours, of hardware that is not there among others: its variable and its logger leave errors alone.
- TensorFlow's and oneDNN's libraries, if something imports them, give notices at their start: their own variables.
- Deprecation warnings of any package but mmparax, which its authors must see, and users can do nothing about: Python's warning
  filters; those in a log are in its file alone.
- Warnings of what is as it should be, and of what no user can change: Python's warning filters, or ``REMARKS`` for those in a
  log. The visualization hooks say that "The draw is False", mmseg's losses name a default of theirs, mmengine's schedulers
  complain at their second step where no optimizer counts, mmdet names a package that another metric needs, mmpretrain an option
  that another library has, metrics say that they have no prefix, the runner says that it would revert SyncBN and how it calls
  the experiment; mmengine prints the name of every checkpoint.

Errors, and warnings of other kinds, stay; each warning is one line, without the line of code that gave it.
``MMPARAX_TRACEBACK=1``, which is for finding faults, leaves everything as it is.
"""
import functools
import logging
import os
import re
import sys
import warnings
from typing import Any

from mmparax.errors import TRACEBACK
from mmparax.utils.imports import run_after_import

# How the records begin that go to the log file alone.
LONG_RECORDS = re.compile(r'\s*-*\s*System environment:|Config:\n|Hooks will be executed in the following order')
VARIABLES = dict(ORT_LOGGING_LEVEL='3', TF_CPP_MIN_LOG_LEVEL='2', TF_ENABLE_ONEDNN_OPTS='0')
# Words in deprecations that are of other kinds: torch's and others' are UserWarnings or FutureWarnings.
DEPRECATED = r'(?is).*(deprecat|will be removed|is being phased out|will change in a future)'
NEEDLESS = (r'The draw is False', r'Default ``avg_non_ignore`` is False', r'Detected call of `scheduler.step\(\)` before',
            r'faster_coco_eval is not installed', r"Only use 'alpha' for pillow backend")
# How the log's remarks begin that are for its file alone, and the lines that are printed without a logger.
REMARKS = re.compile(r'The prefix is not set in metric class|Distributed training is not used, all SyncBatchNorm|Exp name: ')
PRINTED = re.compile(r'Loads checkpoint by \w+ backend from path: ')


def silence_third_parties() -> None:
    """Silence what the table above lists, in this process and those that it starts."""
    if os.environ.get(TRACEBACK):
        return
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:  # python -W, PYTHONWARNINGS
        for unwanted in (DeprecationWarning, PendingDeprecationWarning, SyntaxWarning):
            warnings.filterwarnings('ignore', category=unwanted)
        for category in (FutureWarning, UserWarning):
            warnings.filterwarnings('ignore', DEPRECATED, category=category)
        for message in NEEDLESS:
            warnings.filterwarnings('ignore', message, category=UserWarning)
        warnings.filterwarnings('default', category=DeprecationWarning, module=r'mmparax')
    warnings.formatwarning = _format_warning
    run_after_import('mmengine', _leave_out_prints)
    run_after_import('mmengine', _keep_long_records_in_files)
    run_after_import('onnxruntime', _keep_errors_of_onnxruntime)


def _leave_out_prints() -> None:
    import mmengine.logging

    if hasattr(mmengine.logging.print_log, '__wrapped__'):
        return
    original = mmengine.logging.print_log

    @functools.wraps(original)
    def print_log(msg: Any, logger: Any = None, level: int = logging.INFO) -> None:
        needless = level < logging.INFO or level == logging.INFO and PRINTED.match(str(msg))
        if logger is not None or not needless:
            original(msg, logger, level)

    for name, module in list(sys.modules.items()):
        if name.partition('.')[0] in ('mmengine', 'mmparax') and getattr(module, 'print_log', None) is original:
            module.print_log = print_log  # type: ignore[attr-defined]


def _format_warning(message: Any, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    return f'{category.__name__}: {message} ({os.path.basename(filename)}:{lineno})\n'


class _Terminal(logging.Filter):
    """Keeps from the terminal what a log file holds as well, and nobody reads there."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = str(record.msg)
        notice = record.levelno == logging.WARNING and f'{os.sep}mmparax{os.sep}' not in record.pathname
        return not LONG_RECORDS.match(text) and not REMARKS.match(text) and not (notice and re.match(DEPRECATED, text))


def _keep_long_records_in_files() -> None:
    from mmengine.logging import MMLogger

    if hasattr(MMLogger.__init__, '__wrapped__'):
        return
    original = MMLogger.__init__

    @functools.wraps(original)
    def initialize(self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        files = [handler for handler in self.handlers if isinstance(handler, logging.FileHandler)]
        for handler in self.handlers if files else ():
            if handler not in files:
                handler.addFilter(_Terminal())

    MMLogger.__init__ = initialize


def _keep_errors_of_onnxruntime() -> None:
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
