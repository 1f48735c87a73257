"""What the scripts share: options of one spelling, and errors as sentences."""
import re
import runpy
import signal
import sys
from pathlib import Path

import pytest

from mmparax.cli import (
    ToolParser,
    add_amp_argument,
    add_batch_size_argument,
    add_cfg_options_argument,
    add_size_argument,
    complete_amp,
    tool,
)
from mmparax.errors import TRACEBACK, InputError, ParameterError
from mmparax.utils.interrupts import watch_interrupts

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(str(path.relative_to(ROOT)) for folder in ('tools', 'demo') for path in (ROOT / folder).rglob('*.py'))
OLD = ('--batch', '--shape', '--images', '--analysis-images', '--val', '--train', '--train-scenes', '--val-scenes', '--out-file')
SAME = ('--cfg-options', '--device', '--amp')  # one sentence wherever they are


@pytest.fixture(scope='module')
def helps():
    return {}


@pytest.mark.parametrize('script', SCRIPTS)
def test_help(script, helps, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '1000')
    monkeypatch.setattr(sys, 'argv', [script, '--help'])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / script), run_name='__main__')
    text = capsys.readouterr().out
    assert stopped.value.code == 0 and text.startswith('usage: ')
    assert not set(OLD) & set(re.findall(r'--[\w-]+', text))
    for option in SAME:
        found = re.search(rf'^ +{option} .*$', text, re.M)
        if found:
            assert helps.setdefault(option, found[0].split()) == found[0].split()


def build_parser():
    parser = ToolParser('A script.')
    parser.add_argument('config')
    add_batch_size_argument(parser, 2)
    add_size_argument(parser, 'height and width', default=(32, 32))
    add_amp_argument(parser)
    parser.add_argument('--force', action='store_true')
    return parser


def stop(error, monkeypatch, *arguments, **options):
    """What a script says that is called with some arguments and ended by an error."""

    @tool(build_parser, **options)
    def main(args):
        raise error

    monkeypatch.setattr(sys, 'argv', ['script.py', 'config.py', *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code


def test_wrong_arguments_have_the_names_of_the_options(monkeypatch):
    assert stop(ParameterError('batch_size', 0, 'it must be more', 'Use 1.'), monkeypatch, '--batch-size', '0') == \
        'ParameterError: --batch-size=0 is not allowed: it must be more. Use 1.'
    assert stop(ParameterError('shape', 0, 'it must be more'), monkeypatch, '--size', '0',
                shape='size').startswith('ParameterError: --size=0 ')
    assert stop(ParameterError('size', (32, 32), 'it must be more'), monkeypatch).startswith('ParameterError: --size=(32, 32) ')
    for parameter in ('config', 'batch', 'model.backbone.size', 'size_of'):  # positional, or no option of the script
        assert stop(ParameterError(parameter, 0, 'it must be more'), monkeypatch) == \
            f'ParameterError: {parameter}=0 is not allowed: it must be more.'
    assert stop(InputError('batch_size is missing.'), monkeypatch) == 'InputError: batch_size is missing.'


def test_a_part_of_a_config_keeps_the_name_of_its_parameter(monkeypatch):
    error = ParameterError('batch_size', 0, 'it must be more')
    assert stop(error, monkeypatch).startswith('ParameterError: batch_size=0 ')  # the option has its default, 2
    assert stop(error, monkeypatch, '--batch-size', '0').startswith('ParameterError: --batch-size=0 ')


def test_remedies_name_the_option_too(monkeypatch):
    error = ParameterError('out', 'x.pth', 'the file exists', 'Replace it with overwrite=True.')
    assert stop(error, monkeypatch, '--force').endswith('Replace it with --force.')


def test_an_interrupt_is_a_sentence(monkeypatch, capsys):
    assert stop(KeyboardInterrupt(), monkeypatch) == 130
    assert capsys.readouterr().err == '\nInterrupted.\n'


def interrupt():
    signal.raise_signal(signal.SIGINT)


def swallow():
    try:
        interrupt()
    except KeyboardInterrupt:
        pass


def fail():
    raise ImportError('later')


def run(function, monkeypatch):
    """The exit code of a script."""

    @tool(build_parser)
    def main(args):
        function()

    monkeypatch.setattr(sys, 'argv', ['script.py', 'config.py'])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code


def test_errors_that_an_interrupt_caused_are_interrupts(monkeypatch, capsys):

    def handle():
        try:
            interrupt()
        except KeyboardInterrupt as error:
            raise ImportError('numpy failed to import') from error

    assert run(handle, monkeypatch) == 130
    assert capsys.readouterr().err == '\nInterrupted.\n'


def test_c_code_raises_another_error_in_place_of_an_interrupt():
    """The error comes from the line that was interrupted, without a context."""
    with watch_interrupts() as interrupts:
        with pytest.raises(ValueError) as same_line:
            [swallow(), int('x')]
        assert same_line.value.__context__ is None and interrupts.explain(same_line.value)
        with pytest.raises(ImportError) as another_line:
            fail()
        assert not interrupts.explain(another_line.value)


def test_an_error_after_an_interrupt_that_was_dealt_with_is_shown(monkeypatch):

    def work():
        swallow()
        raise KeyError('size')

    assert run(work, monkeypatch).startswith("KeyError: 'size' (in work of ")


def test_a_setting_without_a_value_is_refused(capsys):
    parser = ToolParser('A script.')
    add_cfg_options_argument(parser)
    assert parser.parse_args(['--cfg-options', 'a.b=1', 'c=[2,3]']).cfg_options == {'a.b': 1, 'c': [2, 3]}
    with pytest.raises(SystemExit):
        parser.parse_args(['--cfg-options', 'a.b'])
    assert "argument --cfg-options: 'a.b' is not KEY=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize('name', ['swin_mini', 'vit_mini'])
def test_a_mini_backbone_is_pretrained_by_one_line(name, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'argv',
                        ['pretrain_mini_backbone.py', name, '--iterations', '1', '--batch-size', '2', '--out-dir',
                         str(tmp_path)])
    monkeypatch.setattr('mmparax.reproduce.mini_backbones.VALIDATION_IMAGES', 4)
    runpy.run_path(str(ROOT / 'tools' / 'pretrain_mini_backbone.py'), run_name='__main__')
    assert {path.name for path in tmp_path.iterdir()} == {f'{name}_glyphs.safetensors', f'{name}_glyphs.log'}


def test_errors_can_be_traced(monkeypatch):
    monkeypatch.setenv(TRACEBACK, '1')
    with pytest.raises(ParameterError):
        stop(ParameterError('size', 0, 'it must be more'), monkeypatch)


def test_other_errors_are_one_sentence_and_their_traceback_is_kept(monkeypatch):
    text = stop(KeyError('size'), monkeypatch)
    assert text.startswith("KeyError: 'size' (in ") and len(text.splitlines()) == 1 and 'test_cli.py, line ' in text
    log = Path(re.search(r'Traceback: (\S+), or set MMPARAX_TRACEBACK=1', text)[1])
    assert log.read_text().startswith('Traceback') and log.read_text().endswith("KeyError: 'size'\n")
    log.unlink()
    monkeypatch.setenv('MMPARAX_TRACEBACK', '1')
    with pytest.raises(KeyError):
        stop(KeyError('size'), monkeypatch)


def parse(*arguments):
    return vars(build_parser().parse_args(arguments))


def test_sizes_are_one_or_two_numbers(capsys):
    assert parse('config.py')['size'] == (32, 32)
    assert parse('config.py', '--size', '64')['size'] == (64, 64)
    assert parse('config.py', '--size', '64', '96')['size'] == (64, 96)
    with pytest.raises(SystemExit):
        parse('config.py', '--size', '1', '2', '3')
    assert '--size: it takes a height and at most a width, not 3 numbers' in capsys.readouterr().err


def test_the_help_of_a_size_is_one_or_two_numbers():
    assert '--size H [W] ' in build_parser().format_help()


@pytest.mark.parametrize('script, arguments', [('analysis_tools/cka.py', ['config.py', '--out-dir', 'x']),
                                               ('analysis_tools/erf.py', ['config.py', '--out-dir', 'x']), ('quickstart.py', []),
                                               ('reproduce.py', ['--seeds', '1']), ('pretrain_mini_backbone.py', ['swin_mini']),
                                               ('dataset_tools/make_scenes.py', [])])
@pytest.mark.parametrize('seed', [-1, 2**32, 10**30])
def test_seeds_that_a_generator_does_not_take(script, arguments, seed, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    option = '--seeds' if '--seeds' in arguments else '--seed'
    monkeypatch.setattr(sys, 'argv', [script, *arguments[:2 if '--out-dir' not in arguments else 3], option, str(seed)])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / 'tools' / script), run_name='__main__')
    assert stopped.value.code == f'ParameterError: {option}={seed} is not allowed: it must be an integer from 0 to 4294967295.'
    assert not list(tmp_path.iterdir())


def test_options_are_not_abbreviated(capsys):
    with pytest.raises(SystemExit):
        parse('config.py', '--batch', '4')
    assert 'unrecognized arguments: --batch 4' in capsys.readouterr().err


@pytest.mark.parametrize('given, expected', [('--amp config.py', '--amp=fp16 config.py'),
                                             ('config.py --amp', 'config.py --amp=fp16'),
                                             ('config.py --amp bf16 --resume', 'config.py --amp bf16 --resume'),
                                             ('--amp fp16 config.py', '--amp fp16 config.py'),
                                             ('config.py --amp --resume', 'config.py --amp=fp16 --resume'),
                                             ('config.py', 'config.py')])
def test_amp_may_stand_before_the_config(given, expected):
    assert ' '.join(complete_amp(given.split())) == expected


@pytest.mark.parametrize('arguments, amp', [(['--amp', 'config.py'], 'fp16'), (['--amp', 'bf16', 'config.py'], 'bf16'),
                                            (['config.py'], None)])
def test_scripts_read_amp_before_the_config(arguments, amp, monkeypatch):
    found = []
    monkeypatch.setattr(sys, 'argv', ['script.py', *arguments])
    tool(build_parser)(found.append)()
    assert found[0].amp == amp and found[0].config == 'config.py'


@pytest.mark.parametrize('option', ['custom_hooks=[dict(type=mmparax.PEFTHook)]', "model.backbone.adapter=dict(type='a', b=4)"])
def test_a_dict_on_the_command_line_is_one_sentence(option, capsys):
    parser = ToolParser('A script.')
    add_cfg_options_argument(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(['--cfg-options', option])
    assert 'argument --cfg-options: ' in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize('arguments, given', [(['c.py', '--amp', 'fp8'], "invalid choice: 'fp8'"),
                                              (['--amp', 'tf32', 'c.py'], 'tf32')])
def test_an_unknown_precision_names_its_option(arguments, given, capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args(complete_amp(arguments))
    assert 'argument --amp: ' in capsys.readouterr().err and given


def test_a_config_behind_amp_is_no_precision():
    assert build_parser().parse_args(complete_amp(['--amp', 'c.py'])).amp == 'fp16'
    assert build_parser().parse_args(complete_amp(['--amp', 'bf16', 'c.py'])).amp == 'bf16'


@pytest.mark.parametrize('launcher, variable', [('pytorch', 'RANK'), ('slurm', 'SLURM_PROCID'), ('mpi', 'OMPI_COMM_WORLD_RANK')])
def test_a_launcher_that_did_not_start_the_script_is_one_sentence(launcher, variable, monkeypatch, capsys):
    from mmparax.utils.launch import ENVIRONMENTS
    for names, *_ in ENVIRONMENTS.values():
        for name in names:
            monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, 'argv', ['train.py', 'c.py', '--launcher', launcher])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / 'tools' / 'train.py'), run_name='__main__')
    assert f"--launcher='{launcher}' is not allowed: this process was not started by" in str(stopped.value)
    assert variable in str(stopped.value) and 'Start the run by' in str(stopped.value)
