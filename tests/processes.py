"""Starts programs as a user does."""
import os
import socket
import subprocess
import sys


def run(command, cwd, timeout=600, **environment):
    """Run a command to its end, on one thread, with both outputs in one."""
    return subprocess.run([str(word) for word in command], cwd=cwd, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=timeout,
                          env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHON': sys.executable, **environment})


def free_port():
    """A port that nothing listens on."""
    with socket.socket() as end:
        end.bind(('127.0.0.1', 0))
        return str(end.getsockname()[1])
