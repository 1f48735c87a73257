"""Starts programs: as a user does, or in copies of this process, which has the toolboxes imported already."""
import importlib
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time

from mmengine.utils import ManagerMixin


def run(command, cwd, timeout=600, **environment):
    """Run a command to its end, on one thread, with both outputs in one."""
    return subprocess.run([str(word) for word in command], cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=timeout, env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHON': sys.executable, **environment})


def free_port():
    """A port that nothing listens on."""
    with socket.socket() as end:
        end.bind(('127.0.0.1', 0))
        return str(end.getsockname()[1])


def _forget(kind):
    """No scope, logger or visualizer is there under its name, as in a fresh process: they print, and their threads are, here."""
    for below in kind.__subclasses__():
        below._instance_dict.clear()
        _forget(below)


class Fork:
    """A script in Python, run by a copy of this process: a fresh one computes for many seconds until all is imported.

    Has what is used here of ``subprocess.Popen``, for which it can stand in.

    Args:
        command: the interpreter, the script and its arguments.
        stdout: ``subprocess.PIPE`` or an open file, for both outputs.
        cwd: where it runs; as this process if None.
        env: its environment; that of this process if None.
        **_: of ``Popen``, without effect.
    """

    def __init__(self, command, stdout, cwd=None, env=None, **_):
        for toolbox in ('mmdet', 'mmpretrain', 'mmseg'):  # what they import at their first use, every copy would import again
            importlib.import_module(f'{toolbox}.apis')
        self.args, self.stdout = command, None
        read, write = os.pipe() if stdout == subprocess.PIPE else (None, os.dup(stdout.fileno()))
        self.process = multiprocessing.get_context('fork').Process(target=self._main, args=(write, cwd, env))
        self.process.start()
        os.close(write)
        if read is not None:
            self.stdout = open(read, errors='replace')

    def _main(self, output, cwd, env):
        for number in (1, 2):
            os.dup2(output, number)
        os.close(output)
        sys.stdout, sys.stderr = (open(number, 'w', buffering=1, closefd=False) for number in (1, 2))
        os.chdir(cwd or '.')
        if env is not None:
            os.environ.clear()
            os.environ.update(env)
        _forget(ManagerMixin)
        sys.argv = self.args[1:]
        runpy.run_path(sys.argv[0], run_name='__main__')

    @property
    def returncode(self):
        return self.process.exitcode

    def wait(self, timeout=None):
        self.process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def terminate(self):
        self.process.terminate()

    def kill(self):
        self.process.kill()


def fork(script, *arguments, cwd, processes=1, timeout=600, **environment):
    """Run a script to its end as :func:`run` does, in copies of this process.

    Several are told of each other as by torch.distributed.run, and as there none outlives another one's failure.
    """
    command, shared = [sys.executable, str(script), *map(str, arguments)], dict(os.environ, **environment)
    if processes > 1:
        shared.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port(), WORLD_SIZE=str(processes))
    with tempfile.TemporaryFile('w+', errors='replace') as output:
        forks = [
            Fork(command, output, cwd,
                 dict(shared, RANK=str(rank), LOCAL_RANK=str(rank)) if processes > 1 else shared) for rank in range(processes)
        ]
        end = time.time() + timeout
        while any(one.returncode is None for one in forks) and not any(one.returncode for one in forks):
            time.sleep(0.02)
            if time.time() > end:
                break
        for one in forks:
            if one.returncode is None:
                one.kill()
            one.wait()
        output.seek(0)
        return subprocess.CompletedProcess(command, max((one.returncode for one in forks), key=abs), output.read())
