#!/usr/bin/env python3
"""Make the virtual environment of this project: ``python3 tools/setup_env.py [runtime] [tests] [full] [dev] [docs]``.

``runtime``, the default, is what mmparax runs with (requirements.txt); the other sets are in ``requirements/``, and each
target of the Makefile asks for those it needs. A set that is there takes seconds. Needs Python 3.10-3.12 and a network
connection to PyPI, and the runtime a C++ compiler; nothing else. mmcv has no ready wheel for most platforms, so it is
compiled once (10 to 30 minutes on two cores) and the wheel is kept per torch build, Python and CPU/CUDA in
``$MMPARAX_WHEEL_DIR`` (default ``~/.cache/mmparax/wheels``).
"""
# Written for any Python 3, so that an old interpreter reaches the sentence that names the problem.
import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OLDEST, NEWEST = (3, 10), (3, 12)
BUILD_TOOLS = ('setuptools', 'wheel', 'ninja', 'psutil')
PINS = {
    'runtime': 'requirements.txt', 'tests': 'requirements/tests.txt', 'full': 'requirements/full.txt',
    'dev': 'requirements/dev.txt', 'docs': 'requirements/docs.txt'
}
NO_DEPS = 'requirements/no-deps.txt'  # part of the runtime set
# What decides, beside its own pins, what a set installs. The pins of the runtime hold for every set.
RUNTIME_FILES = (PINS['runtime'], NO_DEPS, 'pyproject.toml', 'setup.py', 'tools/setup_env.py')
NETWORK_SIGNS = ('Temporary failure in name resolution', 'Name or service not known', 'Network is unreachable',
                 'NewConnectionError', 'ConnectTimeoutError', 'ReadTimeoutError', 'ProxyError', 'Connection refused',
                 'Connection reset', 'Could not fetch URL', 'nodename nor servname', '(from versions: none)')


class SetupError(Exception):
    """A one-sentence reason why the set-up cannot go on."""


def say(text):
    print('[setup] ' + text, flush=True)


def is_supported(version):
    return OLDEST <= tuple(version[:2]) <= NEWEST


def find_python():
    """Return a supported interpreter: the one running this, else the first of python3.12-3.10 on PATH."""
    if is_supported(sys.version_info):
        return sys.executable
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        found = shutil.which('python3.%d' % minor)
        probe = 'import sys; print(sys.version_info[0], sys.version_info[1])'
        if found:
            out = subprocess.run([found, '-c', probe], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            if out.returncode == 0 and is_supported([int(part) for part in out.stdout.split()]):
                return found
    raise SetupError('Python %d.%d-%d.%d is needed, but this is Python %d.%d and no other was found on PATH: install one '
                     'and call `make PYTHON=python3.11 ...`.' % (OLDEST + NEWEST + tuple(sys.version_info[:2])))


def read_pins(name):
    """Return the pins of a requirements file by package name; ``-r`` lines name sets that have targets of their own."""
    pins = {}
    with open(os.path.join(ROOT, name)) as file:
        for line in file:
            line = line.split('#')[0].strip()
            if line and not line.startswith('-r'):
                pins[re.split(r'[<>=!~\[]', line)[0]] = line
    return pins


def compute_state_hash(python, names):
    """Hash of the interpreter and of the files that decide what is installed; the same hash means that nothing is to do."""
    digest = hashlib.sha256((python + ROOT).encode())  # a copied clone must not go on using the original's package
    for name in names:
        with open(os.path.join(ROOT, name), 'rb') as file:
            content = file.read()
        if name == 'pyproject.toml':  # behind the package's own tables stand the settings of the linters
            content = content.split(b'[tool.pytest', 1)[0]
        digest.update(content)
    return digest.hexdigest()


class Environment:
    """A virtual environment and the commands that fill it; everything pip says goes to one log file."""

    def __init__(self, path):
        self.path = path
        self.python = os.path.join(path, 'Scripts' if os.name == 'nt' else 'bin', 'python')
        self.log = os.path.join(path, 'setup.log')

    def stamp(self, name):
        """Path of the file that holds the state in which a set was installed completely."""
        return os.path.join(self.path, '.mmparax-' + name)

    def has(self, name, state):
        if not os.path.exists(self.stamp(name)):
            return False
        with open(self.stamp(name)) as file:
            return file.read() == state

    def output(self, code):
        done = subprocess.run([self.python, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
        if done.returncode:
            raise SetupError('the environment %s is damaged (%s): remove it and call this again.' %
                             (self.path, (done.stderr.strip().splitlines() or ['no message'])[-1]))
        return done.stdout.strip()

    def is_usable(self):
        """Whether the environment is there with pip in it; an interrupted creation leaves one without."""
        if not os.path.exists(self.python):
            return False
        done = subprocess.run([self.python, '-m', 'pip', '--version'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return done.returncode == 0

    def create(self, interpreter, exactly):
        """Create the environment if it is not there, is not usable, or (``exactly``) has another Python."""
        if self.is_usable():
            probe = 'import sys; print("%d.%d" % sys.version_info[:2])'
            found = self.output(probe)
            wanted = subprocess.check_output([interpreter, '-c', probe], universal_newlines=True).strip()
            if is_supported([int(part) for part in found.split('.')]) and (found == wanted or not exactly):
                return
            say('the environment has Python %s: making it again with %s' % (found, wanted))
        shutil.rmtree(self.path, ignore_errors=True)
        say('creating %s with %s' % (os.path.relpath(self.path, ROOT), interpreter))
        done = subprocess.run([interpreter, '-m', 'venv', self.path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            shutil.rmtree(self.path, ignore_errors=True)
            raise SetupError('the venv module of %s does not work (on Debian or Ubuntu: apt-get install python3-venv): %s' %
                             (interpreter, (done.stdout.decode(errors='replace').strip().splitlines() or [''])[-1]))

    def pip(self, label, *arguments):
        """Run pip with its output in the log; on a terminal show what it is doing and for how long."""
        start, tail = time.time(), []
        command = [self.python, '-m', 'pip'] + list(arguments)
        with open(self.log, 'a') as log:
            log.write('\n$ pip %s\n' % ' '.join(arguments))
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True,
                                       errors='replace', cwd=ROOT)
            shown = 0.0
            for line in process.stdout:
                log.write(line)
                tail = (tail + [line.rstrip()])[-40:]
                shown = self._progress(label, line, start, shown)
            process.wait()
        if sys.stdout.isatty():
            print('\r\033[K', end='')
        if process.returncode:
            self._explain(label, tail)
        say('%s: done in %.0f s' % (label, time.time() - start))

    @staticmethod
    def _progress(label, line, start, shown):
        now = time.time()
        if now - shown < (0.3 if sys.stdout.isatty() else 30):
            return shown
        step = re.match(r'\s*\[(\d+)/(\d+)\]', line)
        if step:
            what = 'compiled %s of %s files' % step.groups()
        else:
            name = re.match(r'\s*(Collecting|Downloading|Installing collected packages|Building)[: ]+(\S+)', line)
            if not name:
                return shown
            what = '%s %s' % (name.group(1).lower(), os.path.basename(name.group(2)).split('-cp')[0])
        text = '%s: %s (%.0f s)' % (label, what[:70], now - start)
        if sys.stdout.isatty():
            print('\r\033[K[setup] ' + text, end='', flush=True)
        elif now - start > 20:
            say(text)
        return now

    def _explain(self, label, tail):
        text = '\n'.join(tail)
        if any(sign in text for sign in NETWORK_SIGNS):
            raise SetupError('the package index could not be reached while getting %s: check the network or the proxy '
                             'settings and call this again (what was done is kept; log: %s).' % (label, self.log))
        if 'No space left on device' in text:
            raise SetupError('the disk is full: about 6 GB are needed below %s (log: %s).' % (self.path, self.log))
        sys.stderr.write(text + '\n')
        raise SetupError('installing %s failed; the lines above are the end of %s.' % (label, self.log))


def find_wheel_folder(env):
    """Return the folder that keeps mmcv's wheel for exactly this torch build, Python and device kind."""
    base = os.environ.get('MMPARAX_WHEEL_DIR') or os.path.join(
        os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache'), 'mmparax', 'wheels')
    tag = env.output('import platform, sys, torch; print("torch-%s-%s-cp%d%d-%s" % (torch.__version__, "cuda" if '
                     'torch.cuda.is_available() else "cpu", *sys.version_info[:2], platform.machine()))')
    return os.path.join(base, tag)


def check_compiler(env):
    if not (shutil.which(os.environ.get('CXX', 'c++')) or shutil.which('g++')):
        raise SetupError('a C++ compiler is needed to build mmcv and none was found: install gcc '
                         '(on Debian or Ubuntu: apt-get install build-essential).')
    header = os.path.join(env.output('import sysconfig; print(sysconfig.get_paths()["include"])'), 'Python.h')
    if not os.path.exists(header):
        raise SetupError('the Python headers are needed to build mmcv and %s does not exist: install them '
                         '(on Debian or Ubuntu: apt-get install python3-dev).' % header)
    toolkit = env.output('import torch; from torch.utils.cpp_extension import CUDA_HOME; '
                         'print(torch.version.cuda if torch.cuda.is_available() and CUDA_HOME is None else "")')
    if toolkit:
        raise SetupError('this machine has a GPU but not the CUDA compiler that mmcv is built with: install the CUDA %s '
                         'toolkit (nvcc) and set CUDA_HOME, or call `CUDA_VISIBLE_DEVICES= make setup` to build for the '
                         'CPU.' % toolkit)


def get_mmcv_wheel(env, pin):
    """Return the path of mmcv's wheel for this environment, compiled if no earlier set-up has kept it."""
    folder = find_wheel_folder(env)
    prefix = '%s-%s-' % tuple(pin.replace('-', '_').split('=='))
    if os.path.isdir(folder):
        kept = [name for name in os.listdir(folder) if name.startswith(prefix) and name.endswith('.whl')]
        if kept:
            say('mmcv: using the wheel kept in %s' % folder)
            return os.path.join(folder, kept[0])
    check_compiler(env)
    say('mmcv: compiling %s against this torch, once (10 to 30 minutes on 2 cores)' % pin)
    os.makedirs(folder, exist_ok=True)
    # pip's own cache does not know which torch a wheel was built against, hence --no-cache-dir and a folder per torch.
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        env.pip('mmcv', 'wheel', '-v', '--no-build-isolation', '--no-deps', '--no-cache-dir', '--no-binary',
                pin.split('==')[0], '-w', scratch, pin)
        built = [name for name in os.listdir(scratch) if name.endswith('.whl')][0]
        os.replace(os.path.join(scratch, built), os.path.join(folder, built))
    return os.path.join(folder, built)


def verify(env):
    """Import what breaks first when a wheel does not fit: mmcv's compiled operators and the toolboxes."""
    code = 'import mmcv.ops, mmengine, mmdet, mmseg, mmpretrain, mmparax; print(mmparax.__version__)'
    done = subprocess.run([env.python, '-W', 'ignore', '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True, cwd=os.path.join(ROOT, 'tools'))
    if done.returncode:
        sys.stderr.write(done.stderr)
        remedy = 'remove %s and call this again' % env.path
        if 'undefined symbol' in done.stderr:
            remedy = 'its wheel was built against another torch: remove %s and %s, and call this again' % (find_wheel_folder(env),
                                                                                                           env.path)
        raise SetupError('the environment is installed but does not import (%s): %s.' %
                         (done.stderr.strip().splitlines()[-1], remedy))


def install_runtime(env):
    pins = read_pins(PINS['runtime'])
    torch_pins = [pins.pop('torch'), pins.pop('torchvision')]
    mmcv_pin = pins.pop('onedl-mmcv')
    tools = [pins.pop(name) for name in BUILD_TOOLS]
    env.pip('build tools', 'install', '--progress-bar', 'off', *tools)
    env.pip('torch', 'install', '--progress-bar', 'off', *torch_pins)
    wheel = get_mmcv_wheel(env, mmcv_pin)
    env.pip('toolboxes', 'install', '--progress-bar', 'off', wheel, *torch_pins, *tools, *pins.values())
    # pip leaves an mmcv of the same version in place, though it may have been built against another torch.
    env.pip('mmcv', 'install', '--progress-bar', 'off', '--no-deps', '--force-reinstall', wheel)
    env.pip('panoptic tools', 'install', '--progress-bar', 'off', '--no-deps', *read_pins(NO_DEPS).values())
    env.pip('mmparax', 'install', '--progress-bar', 'off', '--no-deps', '--no-build-isolation', '-e', ROOT)


def install_further(env, name):
    """Install a set that is not the runtime, which may or may not be there, without changing a pin of the runtime."""
    pins = read_pins(PINS[name])
    if not pins:
        return
    constraints = os.path.join(env.path, 'constraints.txt')
    with open(constraints, 'w') as file:
        file.write('\n'.join(read_pins(PINS['runtime']).values()))
    env.pip('the packages of %s' % PINS[name], 'install', '--progress-bar', 'off', '-c', constraints, *pins.values())


def ensure(env, name, force):
    """Install a set unless it is there as its files say, and check that the runtime can be imported."""
    files = RUNTIME_FILES if name == 'runtime' else (PINS[name], PINS['runtime'])
    state = compute_state_hash(env.output('import sys; print(sys.version)'), files)
    start = time.time()
    there = env.has(name, state) and not force
    if not there:
        if os.path.exists(env.stamp(name)):
            os.remove(env.stamp(name))  # what is stopped half-way counts as not installed
        if name == 'runtime':
            install_runtime(env)
        else:
            install_further(env, name)
    if name == 'runtime':
        verify(env)
    if not there:
        with open(env.stamp(name), 'w') as file:
            file.write(state)
    say('%s: ready %s' % (name, '(nothing to do)' if there else 'in %.0f s' % (time.time() - start)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('sets', nargs='*', metavar='SET', help='what to install: %s (default: runtime)' % ', '.join(PINS))
    parser.add_argument('--venv', default=os.path.join(ROOT, '.venv'), help='where the environment goes (default: .venv)')
    parser.add_argument('--this-python', action='store_true',
                        help='make the environment again if it has another Python than the one that runs this')
    parser.add_argument('--force', action='store_true', help='install again even if nothing has changed')
    arguments = parser.parse_args()
    for name in arguments.sets:
        if name not in PINS:
            parser.error('there is no set %r; the sets are %s' % (name, ', '.join(PINS)))
    env = Environment(os.path.abspath(arguments.venv))
    try:
        interpreter = find_python()
        env.create(interpreter, arguments.this_python)
        for name in arguments.sets or ['runtime']:
            ensure(env, name, arguments.force)
        return 0
    except SetupError as error:
        sys.stderr.write('[setup] ' + str(error) + '\n')
        return 1
    except OSError as error:
        sys.stderr.write('[setup] %s: check that the path exists and can be written, and call this again.\n' % error)
        return 1
    except KeyboardInterrupt:
        sys.stderr.write('\n[setup] stopped; call it again to go on.\n')
        return 130


if __name__ == '__main__':
    sys.exit(main())
