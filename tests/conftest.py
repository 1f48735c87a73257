"""Settings for every test."""
import pytest
import torch

# Tiny models are faster on one thread, and several processes on few cores do not get in each other's way.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
