"""Pre-trains the mini backbones, the frozen bases of the quickstart, by classifying rendered letters and shapes."""
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm

from mmparax.backbones import AdaptedConvNeXt, AdaptedSwin, AdaptedViT
from mmparax.datasets.synthetic.glyphs import GLYPH_CLASSES, GlyphGenerator
from mmparax.version import __version__

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
BACKBONES: dict[str, tuple[Any, dict[str, Any]]] = {
    'swin_mini': (AdaptedSwin,
                  dict(arch=dict(embed_dims=24, depths=[2, 2, 4, 2], num_heads=[1, 2, 4, 8]), window_size=4, pad_small_map=True,
                       drop_path_rate=0., out_indices=(3, ))),
    'convnext_mini': (AdaptedConvNeXt,
                      dict(arch=dict(depths=[2, 2, 4, 2], channels=[24, 48, 96, 192]), drop_path_rate=0., out_indices=(3, ),
                           gap_before_final_norm=False, layer_scale_init_value=0.1)),
    'vit_mini': (AdaptedViT,
                 dict(arch=dict(embed_dims=96, num_layers=4, num_heads=4, feedforward_channels=384), img_size=32, patch_size=4,
                      drop_path_rate=0., out_type='raw')),
}
VALIDATION_SEED, VALIDATION_IMAGES, SIZE = 1, 1000, 64


class Glyphs(IterableDataset):
    """An endless stream of images (3, H, W) uint8 with labels, divided among the workers."""

    def __init__(self, seed: int, start: int, size: int):
        self.generator, self.start = GlyphGenerator(seed=seed, size=size), start

    def __iter__(self):
        worker = get_worker_info()
        index = self.start + worker.id
        while True:
            image, label = self.generator.sample(index)
            yield torch.from_numpy(image).permute(2, 0, 1), label
            index += worker.num_workers


class Classifier(nn.Module):
    """A backbone and linear maps to the classes.

    What is classified is the maximum over the last map, of which a glyph fills only a part; of a ViT the class token, too.
    """

    def __init__(self, name: str):
        super().__init__()
        cls, options = BACKBONES[name]
        self.backbone = cls(allow_random_base=True, **options)
        if hasattr(self.backbone, 'pos_embed'):
            nn.init.trunc_normal_(self.backbone.pos_embed, std=0.02)  # zero when it is built
        with torch.no_grad():
            views = self.compute_views(torch.zeros(1, 3, SIZE, SIZE))
        self.fc = nn.ModuleList(nn.Linear(view.shape[1], len(GLYPH_CLASSES)) for view in views)
        self.register_buffer('mean', torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(STD).view(3, 1, 1), persistent=False)

    def compute_views(self, images: torch.Tensor) -> list[torch.Tensor]:
        features = self.backbone(images)[-1]
        if features.ndim == 4:
            return [features.amax((2, 3))]
        return [features[:, 0], features[:, 1:].amax(1)]

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Scores (B, classes) by each view of images (B, 3, H, W) uint8."""
        views = self.compute_views((images.float() - self.mean) / self.std)
        return [fc(view) for fc, view in zip(self.fc, views)]


def compute_learning_rate(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


@torch.no_grad()
def measure_accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    model.eval()
    hits = sum((model(part)[0].argmax(1) == target).sum().item() for part, target in zip(images.split(200), labels.split(200)))
    model.train()
    return hits / len(labels)


def pretrain(name: str, out_dir: str, iterations: int, batch_size: int, lr: float, seed: int) -> None:
    """Pre-train a mini backbone and write OUT_DIR/NAME_glyphs.safetensors and the log of the run beside it.

    Args:
        name: one of ``BACKBONES``.
        out_dir: folder, made if it does not exist.
        iterations: steps of the training.
        batch_size: images a step.
        lr: peak learning rate of AdamW.
        seed: of the training.
    """
    torch.manual_seed(seed)
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    settings = dict(name=name, iterations=iterations, batch_size=batch_size, lr=lr, seed=seed)
    lines = [f'mmparax {__version__}, torch {torch.__version__}, {os.cpu_count()} CPU cores, {settings}']

    def log(text: str) -> None:
        tqdm.write(text)
        lines.append(text)

    model = Classifier(name).train()
    count = sum(parameter.numel() for parameter in model.backbone.parameters())
    log(f'{name}: {count:,} parameters, {len(GLYPH_CLASSES)} classes, chance {1 / len(GLYPH_CLASSES):.1%}')
    size = BACKBONES[name][1].get('img_size', SIZE)
    held_out = [GlyphGenerator(seed=VALIDATION_SEED, size=size).sample(index) for index in range(VALIDATION_IMAGES)]
    images = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image, _ in held_out])
    labels = torch.tensor([label for _, label in held_out])
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    stream = iter(DataLoader(Glyphs(seed * 1000 + 2, 0, size), batch_size, num_workers=1, prefetch_factor=8))
    start, running = time.time(), None
    for step in tqdm(range(iterations), unit='step', mininterval=5):
        batch, target = next(stream)
        for group in optimizer.param_groups:
            group['lr'] = compute_learning_rate(step, iterations, lr)
        loss = torch.stack([F.cross_entropy(scores, target) for scores in model(batch)]).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.)
        optimizer.step()
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        if (step + 1) % 200 == 0 or step + 1 == iterations:
            log(f'step {step + 1:5d}  loss {running:.3f}  top-1 on {VALIDATION_IMAGES} held-out images '
                f'{measure_accuracy(model, images, labels):.1%}  {time.time() - start:.0f} s')
    weights = {
        key: parameter.detach().contiguous() for key, parameter in model.backbone.named_parameters() if not key.startswith('norm')
    }
    path = out / f'{name}_glyphs.safetensors'
    save_file(weights, str(path), metadata=dict(format='pt', made_by='tools/pretrain_mini_backbone.py', recipe=lines[0]))
    path.with_suffix('.log').write_text('\n'.join(lines) + '\n', encoding='utf-8')
    print(f'Wrote {path} ({path.stat().st_size / 2**20:.1f} MiB) and its log.')
