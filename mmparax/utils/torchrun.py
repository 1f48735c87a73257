"""torch's launcher of several processes (``python -m mmparax.utils.torchrun``), which ends quietly after Ctrl-C.

The first process of the run says the sentence; the launcher's own traceback and notices would bury it. Errors of processes are
reported as ever, and ``LOGLEVEL`` gives the notices back.
"""
import logging
import os
import signal
import sys


def main() -> None:
    """Do what ``python -m torch.distributed.run`` does."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # an interrupted import may end in any error
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    if 'LOGLEVEL' not in os.environ:
        for name in list(logging.root.manager.loggerDict):
            if name.startswith('torch.distributed'):
                logging.getLogger(name).setLevel(logging.ERROR)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        run.main()
    except SignalException as error:
        sys.exit(128 + int(error.sigval))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == '__main__':
    main()
