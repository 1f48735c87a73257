"""A checkpoint as a run writes it, in memory: written, read, and loaded into what a resumed run would build."""
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from mmengine.logging import MessageHub
from mmengine.runner import LogProcessor
from mmengine.utils import apply_to
from torch import Tensor, nn

from mmparax.checkpoint.contents import drop_frozen, trim_histories
from mmparax.checkpoint.fingerprint import add_description
from mmparax.checkpoint.mmengine_loading import add_claim, load_state_dict
from mmparax.checks.checkpoint import check_origin, check_resumable
from mmparax.checks.optimizer import check_parameter_groups
from mmparax.checks.scheduler_states import get_states, load_states, reread
from mmparax.datasets.order import get_generator_states

LARGEST_COPY = 2**26  # bytes of tensors of a checkpoint that are written to memory; of a larger one everything else is
NAME = 'a checkpoint of this run'


def make_checkpoint(model: nn.Module, wrapper: Any, schedulers: Any, meta: Mapping[str, Any], save: str,
                    log_processor: LogProcessor) -> dict[str, Any]:
    """Make what the first checkpoint of a run holds.

    Args:
        model: after a step.
        wrapper: its optimizer wrapper, or a dict of several.
        schedulers: a list, a dict of lists, or None.
        meta: what the run says of itself and its data.
        save: as that of :class:`mmparax.CheckpointHook`.
        log_processor: of the run; a checkpoint keeps the values that it needs.
    """
    hub = MessageHub('checks')
    hub.update_scalars(dict(loss=1., lr=1e-3))
    hub.update_info_dict(dict(epoch=0, iter=1, max_epochs=1, max_iters=2))
    checkpoint: dict[str, Any] = dict(meta=dict(epoch=0, iter=1,
                                                **meta), state_dict=OrderedDict(model.state_dict()), message_hub=hub.state_dict(),
                                      optimizer=wrapper.state_dict(), resume_state=[dict(generators=get_generator_states())])
    if schedulers is not None:
        checkpoint['param_schedulers'] = get_states(schedulers)
    add_description(checkpoint, model)
    if save == 'trainable':
        drop_frozen(checkpoint, model)
        trim_histories(checkpoint['message_hub'], log_processor)
    return checkpoint


def check_round_trip(model: nn.Module, checkpoint: dict[str, Any], rebuild: Callable[[], tuple[Any, Any]]) -> str:
    """Check that a checkpoint can be written, read and resumed; in memory, and no file is touched.

    Args:
        model: whose checkpoint it is.
        checkpoint: from :func:`make_checkpoint`.
        rebuild: makes a new optimizer wrapper and new schedulers of the same run.

    Returns:
        What was tried, and the size, as a sentence.

    Raises:
        InputError: if it would be refused.
    """
    size = measure_tensors(checkpoint)
    read = reread(checkpoint if size <= LARGEST_COPY else _empty_tensors(checkpoint), NAME)
    if size > LARGEST_COPY:  # what was read is all but the tensors
        read.update(state_dict=checkpoint['state_dict'], optimizer=checkpoint['optimizer'])
    read = add_claim(read)
    check_resumable(read, NAME)
    check_origin(model, read, NAME, training=False)
    load_state_dict(model, read['state_dict'])
    wrapper, schedulers = rebuild()
    check_parameter_groups(wrapper, read['optimizer'])
    wrapper.load_state_dict(read['optimizer'])
    if schedulers is not None:
        load_states(schedulers, read['param_schedulers'])
    MessageHub('checks').load_state_dict(read['message_hub'])
    held = 'weights, optimizer, schedulers and histories' if schedulers is not None else 'weights, optimizer and histories'
    weights = measure_tensors(checkpoint['state_dict']) / 1e6
    text = f'{held} are written, read and loaded again; {weights:.1f} MB of weights in a checkpoint'
    return text if size <= LARGEST_COPY else f'{text}, whose tensors ({size / 1e6:.0f} MB in all) were left out of the writing'


def measure_tensors(content: Any) -> int:
    """Bytes of all tensors in nested containers."""
    if isinstance(content, Tensor):
        return content.numel() * content.element_size()
    parts = content.values() if isinstance(content, Mapping) else content if isinstance(content, (list, tuple)) else ()
    return sum(map(measure_tensors, parts))


def _empty_tensors(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A copy without the values of weights and optimizer."""
    emptied = {
        name: apply_to(checkpoint[name], lambda value: isinstance(value, Tensor), lambda value: value.new_empty(0))
        for name in ('state_dict', 'optimizer')
    }
    return {**checkpoint, **emptied}
