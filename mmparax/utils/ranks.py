"""Which process of a run this is, as far as the environment says; imports no torch."""
import os

RANKS = dict(pytorch='RANK', slurm='SLURM_PROCID', mpi='OMPI_COMM_WORLD_RANK')


def is_first_process(launcher: str) -> bool:
    """Whether this process is the first of its run; known before the processes have met.

    Args:
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``; variables of others say nothing about this run.
    """
    return not int(os.environ.get(RANKS.get(launcher, ''), 0))
