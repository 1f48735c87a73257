"""Tells at the start of a run what trains and with which batch and learning rate."""
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmparax.analysis.parameters import count_parameters
from mmparax.registry import HOOKS


@HOOKS.register_module()
class PEFTHook(Hook):
    """Logs, before training: parameters by part, effective batch size, learning rate."""
    priority = 'VERY_LOW'

    def before_train(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        runner.logger.info('\n%s', count_parameters(model).table())
        runner.logger.info(self.describe_schedule(runner))

    @staticmethod
    def describe_schedule(runner: Runner) -> str:
        """One line: processes x batch x accumulation, the batch that the recipe's learning rate is for, the rates."""
        loader = runner.train_dataloader
        world, batch = get_world_size(), loader.batch_size or loader.batch_sampler.batch_size
        accumulation = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        text = (f'Effective batch size {world * batch * accumulation} = {world} process(es) x {batch} images x '
                f'{accumulation} accumulated step(s)')
        base = (runner.cfg.get('auto_scale_lr') or {}).get('base_batch_size')
        if base:
            scaled = 'was scaled' if runner.cfg.auto_scale_lr.get('enable') else 'was not scaled'
            text += f'; the recipe is for {base}, the learning rate {scaled}'
        rates = sorted({group.get('initial_lr', group['lr']) for group in runner.optim_wrapper.param_groups}, reverse=True)
        return text + f'. Learning rate after warm-up: {", ".join(f"{rate:g}" for rate in rates)}.'
