"""A stand-in for scales and trainings, with which the runner of tools/reproduce.py is tried without any model."""
import sys

from mmparax.reproduce.entries import TableEntry
from mmparax.reproduce.runner import ScriptLauncher

# Writes what tools/train.py and tools/test.py write: lines of a log, checkpoints at 2 and 4 of 4 iterations, with validation
# the best of them, metrics.
SCRIPT = '''
import json, pathlib, sys, time
kind, config, *rest = sys.argv[1:]
folder = pathlib.Path(rest[rest.index('--work-dir') + 1])
folder.mkdir(parents=True, exist_ok=True)
wish = folder.parents[3] / (folder.parents[1].name + '.wish')
wish = wish.read_text() if wish.exists() else ''
if kind == 'test':
    value = {'2': 11.5, '4': 12.5, 'better': 13.5}[pathlib.Path(rest[0]).read_text()]
    print('Epoch(test) [1/1]')
    (folder / 'now').mkdir(exist_ok=True)
    (folder / 'now' / 'now.json').write_text(json.dumps({'mIoU': value}))
    sys.exit()
last = folder / 'last_checkpoint'
begin = int(pathlib.Path(last.read_text()).read_text()) if last.exists() and '--resume' in rest else 0
print('begins at', begin)
for step in range(begin + 1, 5):
    print(f'Iter(train) [{step}/4]  loss: 0.5', flush=True)
    if step % 2 == 0:
        (folder / f'iter_{step}.pth').write_text(str(step))
        last.write_text(str(folder / f'iter_{step}.pth'))
        if '--no-validate' not in rest:
            if step == 4 and wish == 'fail late':
                sys.exit('Killed')
            for best in folder.glob('best_*.pth'):
                best.unlink()
            (folder / f'best_mIoU_iter_{step}.pth').write_text(str(step))
    if step == 3 and wish == 'fail':
        sys.exit('InputError: it was told to fail')
    if step == 3 and wish == 'wait':
        (folder / 'waiting').touch()
        time.sleep(600)
print('│ trainable in backbone │  │ 1,234 │')
'''


class StandInScale:
    """Two entries of Table 1 at tiny scale."""
    name = 'tiny'
    entries = [
        TableEntry(1, row, 'swin-mini', row, 'scenes', row.lower(), papers=(TableEntry(1, row, 'swin-b', row, 'ade20k', '', 5.4,
                                                                                       {'mIoU': published}), ))
        for row, published in (('LoRA', 49.4), ('Mona', 49.8))
    ]

    def __init__(self, iterations=4, best_by=None):
        self.iterations_wanted, self.best, self.validates = iterations, best_by, best_by is not None

    def collect_settings(self, entry, seed):
        return dict(config=entry.name, seed=seed, iterations=self.iterations_wanted, scenes=None)

    def get_iterations(self, entry):
        return self.iterations_wanted

    def get_length(self, entry):
        return dict(iterations=4, epochs=None)

    def locate_config(self, entry, seed, folder):
        return folder / f'{entry.name}.py'

    def write_config(self, entry, seed, folder):
        self.locate_config(entry, seed, folder).touch()

    def build_options(self, entry, seed, gpus):
        return {}

    def get_best_metric(self, entry):
        return self.best

    def count_parameters(self, entry):
        return 1234

    def describe_size(self, entry):
        return 'rank 7'


class StandInLauncher(ScriptLauncher):
    """Starts the script above."""

    def build_command(self, script, name, arguments, options):
        return [sys.executable, '-S', '-c', SCRIPT, script, *arguments, *options]


def wish(runner, entry, word):
    """Let the training of an entry fail or wait (or, with an empty word, neither)."""
    (runner.work_dir / f'{entry.name}.wish').write_text(word)
