"""What third parties print without being asked, silenced in this one place; every script calls it before its job.

| who | what | how |
|---|---|---|
| mmseg, mmdet, mmpretrain | "Could not import OneDL": a message of the debug level, which they print whatever the level is | mmengine's ``print_log`` without a logger prints from the level INFO on |
| onnxruntime | coloured warnings, about hardware that is not there among others | its own variable and its logger's level: errors alone |
| TensorFlow's and oneDNN's libraries, if something imports them | notices at their start | their own variables |
| any package but mmparax | deprecation warnings, which its authors must see, and users can do nothing about | Python's warning filters |

Errors, and warnings of other kinds, stay. ``MMPARAX_TRACEBACK=1``, which is for finding faults, leaves everything as it is.
"""
import functools
import logging
import os
import sys
import warnings
from typing import Any

from mmparax.errors import TRACEBACK
from mmparax.utils.imports import run_after_import

VARIABLES = dict(ORT_LOGGING_LEVEL='3', TF_CPP_MIN_LOG_LEVEL='2', TF_ENABLE_ONEDNN_OPTS='0')
# Words in deprecations that are of other kinds: torch's and others' are UserWarnings or FutureWarnings.
DEPRECATED = r'(?is).*(deprecat|will be removed|is being phased out|will change in a future)'


def silence_third_parties() -> None:
    """Silence what the table above lists, in this process and those that it starts."""
    if os.environ.get(TRACEBACK):
        return
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:  # python -W, PYTHONWARNINGS
        for kind in (DeprecationWarning, PendingDeprecationWarning, SyntaxWarning):
            warnings.filterwarnings('ignore', category=kind)
        for kind in (FutureWarning, UserWarning):
            warnings.filterwarnings('ignore', DEPRECATED, category=kind)
        warnings.filterwarnings('default', category=DeprecationWarning, module=r'mmparax')
    run_after_import('mmengine', _leave_out_debug_prints)
    run_after_import('onnxruntime', _keep_errors_of_onnxruntime)


def _leave_out_debug_prints() -> None:
    import mmengine.logging

    if hasattr(mmengine.logging.print_log, '__wrapped__'):
        return
    original = mmengine.logging.print_log

    @functools.wraps(original)
    def print_log(msg: Any, logger: Any = None, level: int = logging.INFO) -> None:
        if logger is not None or level >= logging.INFO:
            original(msg, logger, level)

    mmengine.logging.print_log = print_log


def _keep_errors_of_onnxruntime() -> None:
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
