"""What the small-GPU example keeps in memory, counted from the shapes of its tensors; no number is computed."""
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch._subclasses.fake_tensor import FakeTensorMode

EXAMPLE = next((Path(__file__).parents[2] / 'configs' / 'examples').glob('*_8gb.py'))


def gibibytes(with_cp):
    """(activations kept for the backward pass, weights with gradients and AdamW's state) of one batch in bf16."""
    warnings.simplefilter('ignore')
    cfg = Config.fromfile(EXAMPLE)
    init_default_scope('mmseg')
    cfg.model.backbone.update(with_cp=with_cp, base_checkpoint=None, allow_random_base=True)
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).train()
    kept, alive = {}, []

    def count(tensor):
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        alive.append(tensor)  # or a later storage could have the same address
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        own = {mode.from_tensor(parameter).untyped_storage()._cdata for parameter in model.parameters()}
        images = torch.randn(cfg.train_dataloader.batch_size, 3, *cfg.crop_size)
        labels = torch.randint(150, (len(images), *cfg.crop_size))
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor), torch.autocast('cpu', torch.bfloat16):
            features = model.backbone(images)
            for head in (model.decode_head, model.auxiliary_head):
                F.cross_entropy(F.interpolate(head(features), size=cfg.crop_size, mode='bilinear').float(), labels)
    weights = sum(parameter.numel() * 4 * (4 if parameter.requires_grad else 1) for parameter in model.parameters())
    return sum(size for address, size in kept.items() if address not in own) / 2**30, weights / 2**30


@pytest.mark.full
def test_the_8_gb_example_keeps_little():
    recomputed, weights = gibibytes(with_cp=True)
    kept, _ = gibibytes(with_cp=False)
    print(f'GiB: weights, gradients, AdamW {weights:.2f}; activations {recomputed:.2f}, without with_cp {kept:.2f}')
    assert 0.1 < weights < 2 and recomputed < kept / 2
    assert recomputed + weights < 4  # half of the card is left for temporaries, workspace and context
