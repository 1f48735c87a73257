"""Settings for every test."""
import pytest
import torch
from mmengine.registry import DefaultScope

# Tiny models are faster on one thread, and several processes on few cores do not get in each other's way.
torch.set_num_threads(1)


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
