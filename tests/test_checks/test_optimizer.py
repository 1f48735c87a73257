"""Which optimizers go on from a checkpoint."""
import pytest
import torch
from mmengine.optim import OptimWrapperDict

from helpers.runs import saved, train
from mmparax.checks.optimizer import check_parameter_groups
from mmparax.errors import InputError
from mmparax.utils.locks import unlock_folder


def test_an_optimizer_with_other_groups_is_refused_in_a_sentence(tmp_path):
    """As mmengine's own constructor makes them: a group for each tensor."""
    runner = train(tmp_path, iterations=3)
    content = saved(tmp_path)
    groups = content['optimizer']['param_groups']
    content['optimizer']['param_groups'] = [dict(groups[0], params=[number]) for number in groups[0]['params']]
    torch.save(content, tmp_path / 'other.pth')
    count = len(groups[0]['params'])
    unlock_folder(tmp_path)
    with pytest.raises(InputError, match=rf'optimizer has {count} tensors in {count} group.s., that of this run {count} in 1'):
        train(tmp_path, resume=True, load_from=str(tmp_path / 'other.pth'))
    check_parameter_groups(runner.optim_wrapper, content['optimizer'] | dict(param_groups=groups))
    both = OptimWrapperDict(a=runner.optim_wrapper, b=runner.optim_wrapper)
    check_parameter_groups(both, both.state_dict())
    with pytest.raises(InputError, match='cannot be resumed'):
        check_parameter_groups(both, dict(a=runner.optim_wrapper.state_dict(), b=content['optimizer']))
