"""Compiling mmcv with PyTorch's headers precompiled; small sources and a small header stand for both."""
import os
import shutil
import subprocess
import sys
import tarfile
import time
from types import SimpleNamespace

import pytest

from helpers.scripts import ROOT, load_tool

GCC = shutil.which('g++')
needs_gcc = pytest.mark.skipif(GCC is None, reason='needs g++')
CPU = SimpleNamespace(__version__='2.0', version=SimpleNamespace(cuda=None), cuda=SimpleNamespace(is_available=lambda: False))


@pytest.fixture
def setup_mmcv():
    return load_tool('setup_mmcv.py')


@pytest.mark.parametrize('wanted, jobs', [('3', 3), (' 12 ', 12), ('', 4), (None, 4)])
def test_jobs_are_as_many_as_wanted_or_as_cores(setup_mmcv, monkeypatch, wanted, jobs):
    monkeypatch.setattr(setup_mmcv.os, 'sched_getaffinity', lambda process: range(4), raising=False)
    monkeypatch.setattr(setup_mmcv, 'read_free_memory', lambda: 64 * 2**30)
    monkeypatch.delenv('MAX_JOBS', raising=False) if wanted is None else monkeypatch.setenv('MAX_JOBS', wanted)
    assert setup_mmcv.count_jobs() == jobs


@pytest.mark.parametrize('memory, jobs', [(2.5, 2), (0.5, 1), (None, 4)])
def test_jobs_fit_into_the_memory(setup_mmcv, monkeypatch, memory, jobs):
    monkeypatch.setattr(setup_mmcv.os, 'sched_getaffinity', lambda process: range(4), raising=False)
    monkeypatch.setattr(setup_mmcv, 'read_free_memory', lambda: memory and int(memory * 2**30))
    monkeypatch.delenv('MAX_JOBS', raising=False)
    assert setup_mmcv.count_jobs() == jobs


@pytest.mark.parametrize('wanted', ['many', '0', '-2', '2.5', '1e3', '²'])
def test_nonsense_jobs_are_named(setup_mmcv, monkeypatch, capsys, wanted):
    monkeypatch.setenv('MAX_JOBS', wanted)
    assert setup_mmcv.main(['--check']) == setup_mmcv.SENTENCE
    assert capsys.readouterr().err == f'[setup] MAX_JOBS={wanted} is no number of compile jobs: set it to 1 or more, or unset ' \
        'it to use all cores.\n'


def test_the_memory_is_read(setup_mmcv):
    memory = setup_mmcv.read_free_memory()
    assert memory is None or 2**20 < memory < 2**50


def test_a_pin_must_be_one_version(setup_mmcv, capsys):
    for pin in ('onedl-mmcv', 'mmcv>=2', 'mmcv==2 mmdet==3'):
        assert setup_mmcv.main([pin]) == setup_mmcv.SENTENCE
        assert f'PIN={pin} is not allowed: give a name and one version' in capsys.readouterr().err
    assert setup_mmcv.read_pin().startswith('onedl-mmcv==')


@pytest.fixture
def project(setup_mmcv, tmp_path, monkeypatch):
    """A folder for wheels and a stand-in for torch, with a small header."""
    monkeypatch.setenv('MMPARAX_WHEEL_DIR', str(tmp_path / 'wheels'))
    monkeypatch.delenv('CXX', raising=False)
    monkeypatch.setattr(setup_mmcv, 'import_torch', lambda: CPU)
    monkeypatch.setattr(setup_mmcv, 'HEADER', '#include <vector>\n')
    return tmp_path


def test_wheels_are_kept_per_torch_and_device(setup_mmcv, project, monkeypatch):
    built = []

    def build(sources, out, variables, log):
        built.append(variables)
        (project / out / 'onedl_mmcv-1.0-cp311-linux.whl').write_text('')
        return 1

    monkeypatch.setattr(setup_mmcv, 'get_sources', lambda pin, folder: folder)
    monkeypatch.setattr(setup_mmcv, 'check_environment', lambda torch: None)
    monkeypatch.setattr(setup_mmcv, 'run_build', build)
    first = setup_mmcv.get_wheel('onedl-mmcv==1.0')
    assert os.path.isfile(first) and os.listdir(os.path.dirname(first)) == ['.lock', os.path.basename(first)]
    assert setup_mmcv.get_wheel('onedl-mmcv==1.0') == first and len(built) == 1
    monkeypatch.setattr(setup_mmcv, 'import_torch', lambda: SimpleNamespace(**{**vars(CPU), '__version__': '2.1'}))
    assert setup_mmcv.get_wheel('onedl-mmcv==1.0') != first
    monkeypatch.setattr(setup_mmcv, 'import_torch', lambda: CPU)
    monkeypatch.setenv('FORCE_CUDA', '1')
    assert '-cuda-' in setup_mmcv.get_wheel('onedl-mmcv==1.0') and len(built) == 3


def test_a_stopped_compilation_keeps_its_sources_and_goes_on(setup_mmcv, project, monkeypatch):
    archive = project / 'mmcv-1.0.tar.gz'
    (project / 'mmcv-1.0').mkdir()
    (project / 'mmcv-1.0' / 'setup.py').write_text('')
    with tarfile.open(archive, 'w:gz') as file:
        file.add(project / 'mmcv-1.0', 'mmcv-1.0')
    downloads = []

    def download(command, **_):
        folder = command[command.index('-d') + 1]
        os.makedirs(folder)
        shutil.copy(archive, folder)
        downloads.append(command[-1])
        return SimpleNamespace(returncode=0, stdout='')

    monkeypatch.setattr(setup_mmcv, 'subprocess', SimpleNamespace(run=download, PIPE=None, STDOUT=None))
    monkeypatch.setattr(setup_mmcv, 'check_environment', lambda torch: None)
    monkeypatch.setattr(setup_mmcv, 'get_compiler', lambda: ['g++'])
    monkeypatch.setattr(setup_mmcv, 'prepare_fast_way', lambda *_: None)

    def build(sources, out, variables, log):
        if not os.path.exists(os.path.join(sources, 'object.o')):
            open(os.path.join(sources, 'object.o'), 'w').close()
            raise KeyboardInterrupt
        open(os.path.join(out, 'mmcv-1.0-py3.whl'), 'w').close()
        return 1

    monkeypatch.setattr(setup_mmcv, 'run_build', build)
    with pytest.raises(KeyboardInterrupt):
        setup_mmcv.get_wheel('mmcv==1.0')
    assert setup_mmcv.get_wheel('mmcv==1.0').endswith('mmcv-1.0-py3.whl') and downloads == ['mmcv==1.0']


SETUP = """
from setuptools import Extension, setup
setup(name='mmcv', version='1.0', ext_modules=[Extension('mmcv_ext', ['one.cpp', 'two.cpp'], language='c++')])
"""
SOURCE = '#include <Python.h>\nstd::vector<int> NAME() { return {1}; }\n'  # no <vector>: the header must be there


@needs_gcc
@pytest.mark.full
def test_a_wheel_is_compiled_with_the_header(setup_mmcv, project, monkeypatch, capfd):
    """Through pip and setuptools; the header is compiled first, as only one file is compiled at a time."""
    sources = project / 'sources'
    sources.mkdir()
    (sources / 'setup.py').write_text(SETUP)
    for name in ('one', 'two'):
        (sources / f'{name}.cpp').write_text(SOURCE.replace('NAME', name))
    monkeypatch.setattr(setup_mmcv, 'get_sources', lambda pin, folder: str(sources))
    wheel = setup_mmcv.get_wheel('mmcv==1.0')
    assert os.path.isfile(wheel)
    assert 'compiled in ' in (said := capfd.readouterr().out) and "with PyTorch's headers precompiled in" in said


@pytest.fixture
def compiling(setup_mmcv, tmp_path, monkeypatch):
    """Call the stand-in for the compiler on a file; gives its exit status."""
    variables = setup_mmcv.prepare_fast_way(str(tmp_path), [GCC])
    monkeypatch.setattr(setup_mmcv, 'HEADER', '')
    (tmp_path / 'torch_first.hpp').write_text('#include <vector>\n')

    def compile_text(text, *flags):
        (tmp_path / 'file.cpp').write_text(text)
        command = [variables['CXX'], '-MMD', '-MF', 'file.d', *flags, '-c', 'file.cpp', '-o', 'file.o']
        return subprocess.run(command, cwd=tmp_path, env={**os.environ, **variables}, capture_output=True, text=True)

    return compile_text


@needs_gcc
def test_the_header_is_compiled_once_for_the_same_flags(compiling, tmp_path):
    for flags in (['-g', '-O3'], ['-g', '-O3'], ['-g', '-O3', '-DX=1']):
        assert compiling('std::vector<int> x;', *flags).returncode == 0
        assert (tmp_path / 'file.o').exists() and (tmp_path / 'file.d').exists()
    assert len(list(tmp_path.glob('*.gch'))) == 2
    assert len(list(tmp_path.glob('*.seconds'))) == 2 and not list(tmp_path.glob('*.new'))


@needs_gcc
def test_a_file_that_the_header_does_not_suit_is_compiled_without(compiling):
    assert compiling('#ifdef _GLIBCXX_VECTOR\n#error not first\n#endif\nint x;').returncode == 0
    done = compiling('int x = nothing;')
    assert done.returncode == 1 and 'nothing' in done.stderr


@needs_gcc
def test_a_header_that_cannot_be_compiled_is_told_of(setup_mmcv, compiling, tmp_path):
    (tmp_path / 'torch_first.hpp').write_text('#include <not_there.hpp>\n')
    assert compiling('int x;').returncode == 0
    told = setup_mmcv.tell_of_header(str(tmp_path))
    assert told.startswith(" the plain way, because PyTorch's headers could not be precompiled (") and 'not_there.hpp' in told


@needs_gcc
def test_no_file_waits_for_the_header(setup_mmcv, compiling, tmp_path):
    """While another process makes it, files are compiled without."""
    assert compiling('std::vector<int> x;').returncode == 0
    next(tmp_path.glob('*.gch')).unlink()
    with open(next(tmp_path.glob('*.lock')), 'w') as lock:
        setup_mmcv.fcntl.flock(lock, setup_mmcv.fcntl.LOCK_EX)
        start = time.time()
        assert compiling('#include <vector>\nstd::vector<int> x;').returncode == 0
        assert time.time() - start < 60 and not list(tmp_path.glob('*.gch'))


def test_another_compiler_compiles_the_plain_way(setup_mmcv, tmp_path, capsys):
    (tmp_path / 'clang').write_text('#!/bin/sh\necho "#define __GNUC__ 4"\necho "#define __clang__ 1"\n')
    (tmp_path / 'clang').chmod(0o755)
    assert setup_mmcv.prepare_fast_way(str(tmp_path), [str(tmp_path / 'clang')]) is None
    assert 'clang is not gcc, so there is no precompiled header: compiling takes longer' in capsys.readouterr().out


def test_what_is_missing_is_named(setup_mmcv, monkeypatch, tmp_path):
    monkeypatch.setattr(setup_mmcv.shutil, 'which', lambda name: None)
    monkeypatch.delenv('CXX', raising=False)
    with pytest.raises(setup_mmcv.SetupError, match=r'C\+\+ compiler is needed to build mmcv and none was found'):
        setup_mmcv.get_compiler()
    monkeypatch.setenv('CXX', 'g++-99')
    with pytest.raises(setup_mmcv.SetupError, match=r'C\+\+ compiler is needed to build mmcv and CXX=g\+\+-99 was not found'):
        setup_mmcv.get_compiler()
    with pytest.raises(setup_mmcv.SetupError, match='Python headers are needed'):
        setup_mmcv.check_headers(str(tmp_path))
    (tmp_path / 'Python.h').write_text('')
    setup_mmcv.check_headers(str(tmp_path))


@pytest.mark.parametrize('cuda, release, gpus, sentence', [
    ('13.0', None, 1, 'has a GPU but not the CUDA compiler that mmcv is built with: install the CUDA 13.0 toolkit'),
    ('13.0', '12.6', 1, 'is of CUDA 12.6, but this torch was built for CUDA 13.0: install the CUDA 13.0 toolkit'),
    (None, '13.0', 0, 'FORCE_CUDA=1 asks for CUDA operators, but this torch was built without CUDA'),
    ('13.0', '13.0', 0, 'FORCE_CUDA=1 without a GPU in sight needs TORCH_CUDA_ARCH_LIST'),
    ('12.6', '12.8', 1, None),
])
def test_a_toolkit_that_does_not_fit_is_named(setup_mmcv, monkeypatch, tmp_path, cuda, release, gpus, sentence):
    monkeypatch.delenv('TORCH_CUDA_ARCH_LIST', raising=False)
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin' / 'nvcc').write_text(f'#!/bin/sh\necho "Cuda compilation tools, release {release}, V{release}.88"\n')
    (tmp_path / 'bin' / 'nvcc').chmod(0o755)
    home = str(tmp_path) if release else None
    if sentence is None:
        setup_mmcv.check_toolkit(cuda, home, gpus)
        return
    with pytest.raises(setup_mmcv.SetupError, match=sentence):
        setup_mmcv.check_toolkit(cuda, home, gpus)


def test_without_torch_the_sentence_says_where(tmp_path):
    """In a process of its own, with a Python that sees no packages."""
    done = subprocess.run([sys.executable, '-S', '-E', ROOT / 'tools' / 'setup_mmcv.py'], text=True, capture_output=True,
                          cwd=tmp_path)
    assert done.returncode == 3 and done.stderr.startswith('[setup] mmcv is compiled against the torch of ')
    assert 'install it first.' in done.stderr and done.stderr.count('\n') == 1


@pytest.fixture
def failing_python(tmp_path, monkeypatch):
    """Puts a program that prints a text and fails in the place of the interpreter that runs pip."""

    def put(text):
        program = tmp_path / 'python'
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit 1\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, 'executable', str(program))

    return put


@pytest.mark.parametrize('text, sentence', [
    ('[3/78] c++ ...\nfatal error: error writing to /tmp/a.s: No space left on device',
     'the disk is full: compiling mmcv takes 1 '
     'GB below .*/build; make room and call this again'),
    ('[3/78] c++ ...\ng++: fatal error: Killed signal terminated program cc1plus',
     'the memory was too small to compile mmcv: call '
     r'this again with MAX_JOBS=1, and it goes on \(a job takes 1 to 2 GB\)'),
    ('nms.cpp:3: error: no such type', 'compiling mmcv failed; the lines above are the end of .*build.log'),
])
def test_a_compilation_that_fails_is_explained(setup_mmcv, failing_python, tmp_path, capsys, text, sentence):
    failing_python(text)
    (tmp_path / 'build').mkdir()
    with pytest.raises(setup_mmcv.SetupError, match=sentence):
        setup_mmcv.run_build('sources', 'out', {}, str(tmp_path / 'build' / 'build.log'))
    assert ('no such type' in capsys.readouterr().err) is ('no such type' in text)


@pytest.mark.parametrize('text, reason', [
    ('ERROR: Could not find a version that satisfies the requirement onedl-mmcv==9 (from versions: none)', 'Could not find'),
    ('', 'pip said nothing'),
])
def test_sources_that_cannot_be_downloaded_leave_nothing(setup_mmcv, failing_python, tmp_path, text, reason):
    failing_python(text)
    (tmp_path / 'build').mkdir()
    with pytest.raises(
            setup_mmcv.SetupError, match=rf'the sources of onedl-mmcv==9 could not be downloaded \(.*{reason}.*\): check '
            'the version and the network, and call this again'):
        setup_mmcv.get_sources('onedl-mmcv==9', str(tmp_path / 'build'))
    assert list((tmp_path / 'build').iterdir()) == []
    failing_python('ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device')
    with pytest.raises(setup_mmcv.SetupError, match='the disk is full: compiling mmcv takes 1 GB below .*/build; make room and'):
        setup_mmcv.get_sources('onedl-mmcv==9', str(tmp_path / 'build'))
    assert list((tmp_path / 'build').iterdir()) == []


def test_a_disk_that_is_full_is_one_sentence(setup_mmcv, monkeypatch, capsys):

    def fail(*_):
        raise OSError(28, 'No space left on device', '/cache/wheels')

    monkeypatch.setattr(setup_mmcv, 'get_wheel', fail)
    assert setup_mmcv.main(['mmcv==1.0']) == setup_mmcv.SENTENCE
    said = capsys.readouterr().err
    assert said == "[setup] [Errno 28] No space left on device: '/cache/wheels': make room, and call this again.\n"
