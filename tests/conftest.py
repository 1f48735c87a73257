"""Settings for every test."""
from types import SimpleNamespace

import pytest
import torch
from mmengine.registry import DefaultScope

# Tiny models are faster on one thread, and several processes on few cores do not get in each other's way.
torch.set_num_threads(1)
# Autograd starts at its first use, and threads with it if torch.compile was used before: then no fork could use it.
torch.ones((), requires_grad=True).backward()

SLOW = ('test_tools', 'test_launch', 'test_resume', 'test_compile')


def pytest_collection_modifyitems(items):
    """The slow files first, so that the workers of a parallel run end together."""
    items.sort(key=lambda item: not any(name in str(item.path) for name in SLOW))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope='module', autouse=True)
def scope_of_no_other_module():
    """The default scope is global: names are looked up as in a fresh process, whatever modules ran before in this one."""
    DefaultScope._instance_dict.clear()


@pytest.fixture(scope='session', autouse=True)
def runs_without_ornament():
    """mmengine lays out the text of the config for every checkpoint, and collects garbage for every data set.

    Both cost a small run half of its time and change nothing of what it does.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('yapf.yapflib.yapf_api.FormatCode', lambda text, **_: (text, True))
        patch.setattr('mmengine.dataset.base_dataset.gc', SimpleNamespace(collect=int))
        yield
