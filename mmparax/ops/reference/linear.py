"""Linear maps of tokens whose matrix is another for each sample."""
from torch import Tensor


def sample_linear(x: Tensor, weight: Tensor) -> Tensor:
    """:func:`mmparax.ops.functional.sample_linear`."""
    return x @ weight.transpose(1, 2)
