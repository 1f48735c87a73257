"""Which checkpoints a run goes on from, starts from, and is evaluated with."""
import pytest
from torch import nn

from helpers.cases import build as build_backbone
from mmparax.backbones.base_weights import BaseSource
from mmparax.checkpoint.fingerprint import describe
from mmparax.checks.checkpoint import check_origin, check_resumable


class Segmentor(nn.Module):

    def __init__(self, adapter, classes=3):
        super().__init__()
        self.backbone = build_backbone(adapter)
        self.head = nn.Conv2d(64, classes, 1)


def checkpoint_of(model, **changes):
    return dict(state_dict=model.state_dict(), meta=dict(epoch=0, iter=3, mmparax=describe(model)), optimizer={}, message_hub={},
                **changes)


def test_a_resume_file_must_be_complete():
    whole = checkpoint_of(Segmentor('frozen'))
    check_resumable(whole, 'iter_3.pth')
    for name in ('optimizer', 'message_hub', 'meta'):
        with pytest.raises(ValueError, match=f"'best.pth' is not a file to resume from: it has no {name}.*load_from"):
            check_resumable({key: value for key, value in whole.items() if key != name}, 'best.pth')


def test_the_origin_of_a_checkpoint_is_judged():
    model = Segmentor('adaroute')
    good = checkpoint_of(model)
    for training in (True, False):
        check_origin(model, good, 'a.pth', training)
    other_head = checkpoint_of(Segmentor('adaroute', classes=5))
    check_origin(model, other_head, 'a.pth', True)  # fine-tuning to other classes
    for checkpoint, message in ((other_head, r'does not fit the head of Segmentor: 2 \(head.weight \(5, .*\) of another shape'),
                                (checkpoint_of(Segmentor('frozen')),
                                 'trained with the adapter Frozen, but backbone has AdaRoute'),
                                (checkpoint_of(Segmentor(None)), r'trained with the adapter None \(full fine-tuning\), but'),
                                (checkpoint_of(Segmentor('adaroute-sigmoid')),
                                 "other options of AdaRoute: router_activation='sigmoid' instead of 'softmax'"),
                                (dict(model={}), 'looks like a base checkpoint. Give a checkpoint of a training run'), (dict(
                                    state_dict={
                                        f'backbone.{name}': value
                                        for name, value in Segmentor('frozen').backbone.state_dict().items()
                                        if not name.startswith('norm')
                                    }), 'looks like a base checkpoint')):
        with pytest.raises(ValueError, match=message):
            check_origin(model, checkpoint, 'a.pth', False)


def test_another_base_is_told_by_its_fingerprint():
    model = Segmentor('frozen')
    other = checkpoint_of(Segmentor('frozen'))
    check_origin(model, other, 'a.pth', True)  # a random base of one's own is no claim
    model.backbone.base_source = BaseSource.FILE
    with pytest.raises(ValueError, match="'a.pth' was trained on another base: its fingerprint is .*Set model.backbone.base"):
        check_origin(model, other, 'a.pth', True)
