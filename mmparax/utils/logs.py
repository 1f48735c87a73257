"""How much of the toolboxes' log is shown."""
import logging
import warnings

from mmengine.logging import MMLogger


def silence_log() -> None:
    """Keep only errors of the toolboxes' log, which goes to stdout: that is for a script's own result."""
    MMLogger.get_instance('mmengine', log_level=logging.ERROR)
    warnings.simplefilter('ignore')
