#!/usr/bin/env python3
"""Make the virtual environment of this project: ``python3 tools/setup_env.py [runtime] [tests] [full] [dev] [docs]``.

``runtime``, the default, is what mmparax runs with (requirements.txt); the other sets are in ``requirements/``, and each
target of the Makefile asks for those it needs. A set that is there takes seconds. Needs Python 3.10-3.13 and a network
connection to PyPI, and the runtime a C++ compiler; nothing else. mmcv has no ready wheel for most platforms, so
tools/setup_mmcv.py compiles it once (minutes) and keeps the wheel. ``--torch`` chooses PyTorch's build: of PyPI by default,
``cpu``, ``cu126`` or ``cu130`` from PyTorch's own index, ``installed`` for the one that is there. The choice is remembered.
"""
# Written for any Python 3, so that an old interpreter reaches the sentence that names the problem.
import argparse
import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OLDEST, NEWEST = (3, 10), (3, 13)
BUILD_TOOLS = ('setuptools', 'wheel', 'ninja', 'psutil')
PINS = {
    'runtime': 'requirements.txt', 'tests': 'requirements/tests.txt', 'full': 'requirements/full.txt',
    'dev': 'requirements/dev.txt', 'docs': 'requirements/docs.txt'
}
NO_DEPS = 'requirements/no-deps.txt'  # part of the runtime set
# What decides, beside its own pins, what a set installs. The pins of the runtime hold for every set.
RUNTIME_FILES = (PINS['runtime'], NO_DEPS, 'pyproject.toml', 'setup.py', 'tools/setup_env.py')
TORCH_INDEX = 'https://download.pytorch.org/whl/'
TORCH_CHOICES = ('cpu', 'cu126', 'cu130', 'installed')
OLDEST_TORCH = (2, 5)  # as pyproject.toml says
OLDEST_DRIVERS = {11: 450, 12: 525, 13: 580}  # the first NVIDIA driver for each CUDA version, by NVIDIA's release notes
SENTENCE = 3  # exit status of setup_mmcv.py: its last line on stderr says all there is to say
NETWORK_SIGNS = ('Temporary failure in name resolution', 'Name or service not known', 'Network is unreachable',
                 'NewConnectionError', 'ConnectTimeoutError', 'ReadTimeoutError', 'ProxyError', 'Connection refused',
                 'Connection reset', 'Could not fetch URL', 'nodename nor servname', '(from versions: none)')


class SetupError(Exception):
    """A one-sentence reason why the set-up cannot go on."""


def say(text):
    print('[setup] ' + text, flush=True)


def is_supported(version):
    return OLDEST <= tuple(version[:2]) <= NEWEST


PROBE = 'import sys; print("%d.%d" % sys.version_info[:2])'


def probe_python(command):
    """Return the version of an interpreter as in ``(3, 11)``, or what it says instead of that."""
    try:
        done = subprocess.run([command, '-c', PROBE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    except OSError as error:
        return str(error)
    if done.returncode or not re.match(r'\d+\.\d+$', done.stdout.strip()):
        return ((done.stderr or done.stdout).strip().splitlines() or ['it printed nothing'])[0]
    return tuple(int(part) for part in done.stdout.split('.'))


def find_python():
    """Return a supported interpreter: the one running this, else the first of python3.13-3.10 on PATH."""
    if is_supported(sys.version_info):
        return sys.executable
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        found = shutil.which('python3.%d' % minor)
        version = probe_python(found) if found else ''
        if isinstance(version, tuple) and is_supported(version):
            return found
    raise SetupError('Python %d.%d-%d.%d is needed, but this is Python %d.%d and no other was found on PATH: install one '
                     'and call `make PYTHON=python3.11 ...`.' % (OLDEST + NEWEST + tuple(sys.version_info[:2])))


def get_python(wanted):
    """Return the interpreter that was asked for by name or path; no other takes its place."""
    remedy = 'give a Python %d.%d-%d.%d by name or path, or leave PYTHON out.' % (OLDEST + NEWEST)
    found = shutil.which(os.path.expanduser(wanted)) if wanted.strip() else None
    if found is None:
        raise SetupError('PYTHON=%s is no program that was found: %s' % (wanted, remedy))
    version = probe_python(found)
    if not isinstance(version, tuple):
        raise SetupError('PYTHON=%s does not run as a Python (%s): %s' % (wanted, version, remedy))
    if not is_supported(version):
        raise SetupError('PYTHON=%s is Python %d.%d: %s' % ((wanted, ) + version + (remedy, )))
    return os.path.abspath(found)


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
        self.settings = os.path.join(path, 'pyvenv.cfg')

    def read_choice(self):
        """Return which build of torch an earlier call installed, one of ``TORCH_CHOICES``, or None for PyPI's."""
        path = self.stamp('torch')
        if not os.path.exists(path):
            return None
        with open(path) as file:
            choice = file.read().strip()
        return choice if choice in TORCH_CHOICES else None

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

    def create(self, interpreter, exactly, system=False):
        """Create the environment if it is not there, is not usable, or (``exactly``) has another Python.

        With ``system`` it sees the packages of the interpreter; one that does not comes to see them and keeps its own.
        """
        if self.is_usable():
            found, wanted = self.output(PROBE), '%d.%d' % probe_python(interpreter)
            fits = is_supported([int(part) for part in found.split('.')]) and (found == wanted or not exactly)
            if fits and (not system or self.sees_system()):
                return
            if found != wanted:
                if not self.is_own():
                    raise SetupError('%s has Python %s and was not made by this script: name another environment, or remove it '
                                     'yourself.' % (self.path, found))
                say('the environment has Python %s: making it again with %s' % (found, wanted))
                shutil.rmtree(self.path, ignore_errors=True)
        elif os.path.isdir(self.path) and os.listdir(self.path):
            if not self.is_own() and os.path.exists(os.path.join(self.path, 'pyvenv.cfg')):
                raise SetupError('%s has no pip and was not made by this script: call `%s -m ensurepip`, or name another '
                                 'environment.' % (self.path, self.python))
            if not (self.is_own() or os.path.lexists(self.python)):
                raise SetupError('%s is not a Python environment and not empty: name another folder.' % self.path)
            shutil.rmtree(self.path, ignore_errors=True)
        say('creating %s with %s' % (os.path.relpath(self.path, ROOT), interpreter))
        start = time.time()
        there = os.path.exists(self.path)  # it works, but cannot see the packages of its interpreter yet
        settings = self.read_settings()
        if not there:
            os.makedirs(self.path)
            with open(self.stamp('made'), 'w'):
                pass
        done = subprocess.run([interpreter, '-m', 'venv'] + ['--system-site-packages'] * system + [self.path],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            if there and settings is not None:
                with open(self.settings, 'w') as file:
                    file.write(settings)
            elif not there:
                shutil.rmtree(self.path, ignore_errors=True)
            raise SetupError('the venv module of %s does not work (on Debian or Ubuntu: apt-get install python3-venv): %s' %
                             (interpreter, (done.stdout.decode(errors='replace').strip().splitlines() or [''])[-1]))
        say('environment: created in %.0f s' % (time.time() - start))

    def is_own(self):
        """Whether this script may remove it: the project's own, or another that it made."""
        return self.path == os.path.join(ROOT, '.venv') or os.path.exists(self.stamp('made'))

    def sees_system(self):
        """Whether it sees the packages of the interpreter that it was made with."""
        settings = self.read_settings()
        if settings is None:
            return True  # an environment of conda
        return re.search(r'include-system-site-packages\s*=\s*true', settings, re.IGNORECASE) is not None

    def read_settings(self):
        """The text of pyvenv.cfg, or None if there is none."""
        if not os.path.exists(self.settings):
            return None
        with open(self.settings) as file:
            return file.read()

    def has_torch(self):
        return self.output('from importlib.util import find_spec; print(find_spec("torch") is not None)') == 'True'

    def pip(self, label, *arguments):
        """Run pip with its output in the log; on a terminal show what it is doing and for how long."""
        start, tail = time.time(), []
        with open(self.log, 'a') as log:
            process = self._start(log, ['-m', 'pip'] + list(arguments))
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

    def run_script(self, name, *arguments):
        """Run another script of this folder in the environment, show what it says and return its last line."""
        tail = ['']
        with open(self.log, 'a') as log, tempfile.TemporaryFile('w+') as errors:
            process = self._start(log, [os.path.join(os.path.dirname(os.path.abspath(__file__)), name)] + list(arguments), errors)
            for line in process.stdout:
                log.write(line)
                tail = (tail + [line.rstrip()])[-40:]
                if line.startswith('[setup] '):
                    print(line, end='', flush=True)
            process.wait()
            errors.seek(0)
            text = errors.read()
            log.write(text)
        if process.returncode == SENTENCE:
            lines = text.strip().splitlines()
            sys.stderr.write(''.join(line + '\n' for line in lines[:-1]))
            raise SetupError(lines[-1].replace('[setup] ', '', 1))
        if process.returncode:
            self._explain(name, tail + text.splitlines())
        return tail[-1]

    def _start(self, log, arguments, errors=subprocess.STDOUT):
        """Start the environment's Python and write the command to the log."""
        log.write('\n$ python %s\n' % ' '.join(arguments))
        log.flush()
        return subprocess.Popen([self.python] + arguments, stdout=subprocess.PIPE, stderr=errors, universal_newlines=True,
                                errors='replace', cwd=ROOT)

    @staticmethod
    def _progress(label, line, start, shown):
        now = time.time()
        if now - shown < (0.3 if sys.stdout.isatty() else 30):
            return shown
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


def read_driver():
    """Return the version of the NVIDIA driver as nvidia-smi prints it, or None if it shows no GPU."""
    tool = shutil.which('nvidia-smi')
    for arguments, pattern in (([], r'Driver Version:\s*([\d.]+)'), (['--query-gpu=driver_version', '--format=csv,noheader'],
                                                                     r'(?m)^\s*(?:.*,\s*)?(\d+\.[\d.]+)\s*$')):
        try:
            done = subprocess.run([tool] + arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, universal_newlines=True,
                                  errors='replace', timeout=60) if tool else None
        except (OSError, subprocess.TimeoutExpired):
            done = None
        found = re.search(pattern, done.stdout) if done is not None and done.returncode == 0 else None
        if found:
            return found.group(1)
    return None


def check_driver(env):
    """Stop if nvidia-smi shows a GPU that this torch cannot use: mmcv would be compiled for the CPU without a word."""
    if os.environ.get('CUDA_VISIBLE_DEVICES', '0').strip() in ('', '-1'):  # asked for by name
        return
    driver = read_driver()
    cuda, works = env.output('import torch; print(torch.version.cuda or "-", torch.cuda.is_available())').split()
    if driver is None or cuda == '-' or works == 'True':
        return
    oldest = OLDEST_DRIVERS.get(int(cuda.split('.')[0]))
    remedy = '`CUDA_VISIBLE_DEVICES= make setup` builds for the CPU alone.'
    if oldest is None or int(driver.split('.')[0]) >= oldest:
        raise SetupError('nvidia-smi shows a GPU (driver %s), but this torch, built for CUDA %s, cannot use it: `%s -c "import '
                         'torch; torch.cuda.init()"` says why; %s' % (driver, cuda, env.python, remedy))
    older = ', or take a torch for an older CUDA with `make setup TORCH=cu126`' if int(driver.split('.')[0]) >= 525 else ''
    raise SetupError('the NVIDIA driver %s is too old for this torch, which is built for CUDA %s and needs driver %d or newer: '
                     'update the driver%s; %s' % (driver, cuda, oldest, older, remedy))


def get_torch_pins(choice, pins, system=sys.platform):
    """Return pip's arguments for torch and torchvision, and the two pins that hold them from then on.

    Args:
        choice: ``'cpu'``, ``'cu126'`` or ``'cu130'`` for a build of PyTorch's own index, None for PyPI's.
        pins: of torch and torchvision, as in requirements.txt.
        system: ``sys.platform``; macOS has one build, without a suffix.
    """
    if choice is None:
        return [], list(pins)
    suffix = '' if system == 'darwin' else '+' + choice
    return ['--index-url', TORCH_INDEX + choice], [pin + suffix for pin in pins]


def install_torch(env, choice, pins):
    """Install torch and torchvision, or take those that are there; return the two pins that hold them from then on."""
    if choice == 'installed':
        return take_installed_torch(env)
    index, pins = get_torch_pins(choice, pins)
    try:
        env.pip('torch', 'install', '--progress-bar', 'off', *(index + pins))
    except SetupError as error:
        if not index:
            raise
        raise SetupError('%s was not installed here: %s cannot be reached or has no such build for this Python and system (log: '
                         '%s); `make setup` without TORCH takes the one of PyPI, TORCH=installed the one that is there.' %
                         (' with '.join(pins), index[1], env.log)) from error
    return pins


def take_installed_torch(env):
    """Return the pins of the torch that is there and of its torchvision, which is installed if it is missing."""
    code = 'from importlib.metadata import version; print(version(%r))'
    version = env.output(code % 'torch')
    if tuple(int(part) for part in version.split('.')[:2]) < OLDEST_TORCH:
        raise SetupError('TORCH=installed would keep torch %s, but mmparax needs %d.%d or newer.' % ((version, ) + OLDEST_TORCH))
    pin = 'torch==' + version
    # Without a version of its own pip finds the torchvision that was built for this torch.
    env.pip('torchvision', 'install', '--progress-bar', 'off', pin, 'torchvision')
    say('torch: keeping %s' % version)
    return [pin, 'torchvision==' + env.output(code % 'torchvision')]


def create_around_installed_torch(env, interpreter, exactly):
    """Create the environment so that it has the torch of the interpreter, unless it is there with a torch of its own."""
    if env.is_usable() and env.has_torch():
        env.create(interpreter, exactly)
        return
    code = ('import sys; from importlib.util import find_spec; '
            'print(find_spec("torch") is not None, sys.prefix == sys.base_prefix)')
    there, is_base = subprocess.check_output([interpreter, '-c', code], universal_newlines=True).split()
    if there != 'True':
        raise SetupError('TORCH=installed keeps the torch that is there, but neither %s nor %s has one: install torch there '
                         'first, or choose TORCH=cpu, cu126 or cu130.' % (env.path, interpreter))
    if is_base != 'True':
        raise SetupError('TORCH=installed cannot take the torch of %s into another environment, because that is a virtual '
                         'environment: set that one up with `%s tools/setup_env.py --torch installed --venv %s`.' %
                         (interpreter, interpreter, os.path.dirname(os.path.dirname(interpreter))))
    env.create(interpreter, exactly, system=True)
    if not env.has_torch():
        raise SetupError('%s was made with another interpreter than %s and has no torch: remove it and call this again.' %
                         (env.path, interpreter))


def verify(env):
    """Import what breaks first when a wheel does not fit: mmcv's compiled operators and the toolboxes."""
    code = ('import mmcv.ops, mmengine, mmdet, mmseg, mmpretrain, mmparax, torch; '
            'print(torch.cuda.is_available(), mmcv.ops.get_compiling_cuda_version())')
    done = subprocess.run([env.python, '-W', 'ignore', '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True, cwd=os.path.join(ROOT, 'tools'))
    if done.returncode:
        sys.stderr.write(done.stderr)
        remedy = 'remove %s and call this again' % env.path
        if 'undefined symbol' in done.stderr:
            remedy = 'its wheel was built against another torch: remove %s and %s, and call this again' % (env.run_script(
                'setup_mmcv.py', '--folder'), env.path)
        raise SetupError('the environment is installed but does not import (%s): %s.' %
                         (done.stderr.strip().splitlines()[-1], remedy))
    if done.stdout.split()[-3:] == ['True', 'not', 'available']:
        say('this torch sees a GPU, but mmcv was compiled without one: `%s tools/setup_env.py --force` compiles it again'
            % env.python)


def install_runtime(env, choice=None):
    env.run_script('setup_mmcv.py', '--check')  # before minutes of downloads
    pins = read_pins(PINS['runtime'])
    torch_pins = [pins.pop('torch'), pins.pop('torchvision')]
    mmcv_pin = pins.pop('onedl-mmcv')
    tools = [pins.pop(name) for name in BUILD_TOOLS]
    env.pip('build tools', 'install', '--progress-bar', 'off', *tools)
    torch_pins = install_torch(env, choice, torch_pins)
    with open(env.stamp('torch'), 'w') as file:
        file.write(choice or '')
    check_driver(env)
    wheel = env.run_script('setup_mmcv.py', mmcv_pin)
    env.pip('toolboxes', 'install', '--progress-bar', 'off', wheel, *(torch_pins + tools + list(pins.values())))
    # pip leaves an mmcv of the same version in place, though it may have been built against another torch.
    env.pip('mmcv', 'install', '--progress-bar', 'off', '--no-deps', '--force-reinstall', wheel)
    env.pip('panoptic tools', 'install', '--progress-bar', 'off', '--no-deps', *read_pins(NO_DEPS).values())
    env.pip('mmparax', 'install', '--progress-bar', 'off', '--no-deps', '--no-build-isolation', '-e', ROOT)


def install_further(env, name):
    """Install a set that is not the runtime, which may or may not be there, without changing a pin of the runtime."""
    pins = read_pins(PINS[name])
    if not pins:
        return
    runtime = read_pins(PINS['runtime'])
    if env.read_choice() == 'installed':  # whatever version that is
        runtime = {package: pin for package, pin in runtime.items() if package not in ('torch', 'torchvision')}
    constraints = os.path.join(env.path, 'constraints.txt')
    with open(constraints, 'w') as file:
        file.write('\n'.join(runtime.values()))
    env.pip('the packages of %s' % PINS[name], 'install', '--progress-bar', 'off', '-c', constraints, *pins.values())


def compute_state(env, name, choice):
    """What a set was installed from: the interpreter, the files, and for the runtime the build of torch."""
    files = RUNTIME_FILES if name == 'runtime' else (PINS[name], PINS['runtime'])
    state = compute_state_hash(env.output('import sys; print(sys.version)'), files)
    if name == 'runtime' and choice:
        state += ' ' + choice
        if choice == 'installed':  # mmcv must be compiled again when that changes
            state += ' ' + env.output('from importlib.metadata import version; print(version("torch"))')
    return state


def ensure(env, name, force, choice=None):
    """Install a set unless it is there as its files say, and check that the runtime can be imported."""
    state = compute_state(env, name, choice)
    start = time.time()
    there = env.has(name, state) and not force
    if not there:
        if os.path.exists(env.stamp(name)):
            os.remove(env.stamp(name))  # what is stopped half-way counts as not installed
        if name == 'runtime':
            install_runtime(env, choice)
        else:
            install_further(env, name)
    if name == 'runtime':
        checking = time.time()
        verify(env)
        if not there:
            say('imports: checked in %.0f s' % (time.time() - checking))
    if not there:
        with open(env.stamp(name), 'w') as file:
            file.write(state)
    say('%s: ready %s' % (name, '(nothing to do)' if there else 'in %.0f s' % (time.time() - start)))


def set_up(arguments):
    """Do what the command line says."""
    if arguments.torch is not None and arguments.torch not in TORCH_CHOICES:
        raise SetupError('TORCH=%s is not known: choose %s, or leave it out for the build of PyPI.' %
                         (arguments.torch, ', '.join(TORCH_CHOICES)))
    env, sets = Environment(os.path.abspath(arguments.venv)), arguments.sets or ['runtime']
    interpreter = find_python() if arguments.python is None else get_python(arguments.python)
    choice = arguments.torch or env.read_choice()
    if choice == 'installed' and 'runtime' in sets:
        create_around_installed_torch(env, interpreter, arguments.python is not None)
    else:
        env.create(interpreter, arguments.python is not None)
    for name in sets:
        ensure(env, name, arguments.force, choice)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('sets', nargs='*', metavar='SET', help='what to install: %s (default: runtime)' % ', '.join(PINS))
    parser.add_argument('--venv', default=os.path.join(ROOT, '.venv'), help='where the environment goes (default: .venv)')
    parser.add_argument(
        '--python', help='the interpreter; an environment with another Python is made again '
        '(default: that of the environment, else the one that runs this)')
    parser.add_argument(
        '--torch', metavar='BUILD', help='which build of PyTorch: %s (default: that of PyPI, or what the '
        'environment was made with)' % ', '.join(TORCH_CHOICES))
    parser.add_argument('--force', action='store_true', help='install again even if nothing has changed')
    arguments = parser.parse_args()
    for name in arguments.sets:
        if name not in PINS:
            parser.error('there is no set %r; the sets are %s' % (name, ', '.join(PINS)))
    try:
        set_up(arguments)
        return 0
    except SetupError as error:
        sys.stderr.write('[setup] ' + str(error) + '\n')
        return 1
    except OSError as error:
        remedy = 'make room' if error.errno == errno.ENOSPC else 'check that the path exists and can be written'
        sys.stderr.write('[setup] %s: %s, and call this again.\n' % (error, remedy))
        return 1
    except KeyboardInterrupt:
        sys.stderr.write('\n[setup] stopped; call it again to go on.\n')
        return 130


if __name__ == '__main__':
    sys.exit(main())
