"""ONNX files of backbone and head at one size of the batch and the images."""
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmparax.backbones.adapted import find_adapted_backbones
from mmparax.deploy.standalone import check_output_file
from mmparax.errors import InputError, check_int
from mmparax.utils.modules import unwrap_model
from mmparax.utils.storage import write
from mmparax.utils.toolboxes import is_installed
from mmparax.version import __version__
from mmparax.weights.adapter_file import to_plain_json

PACKAGES = ('onnx', 'onnxscript')
RUNTIME = 'onnxruntime'
LEVELS, LOGITS, SCORES = 'level', 'logits', 'scores'
MEANING = {
    LOGITS: "the head's logits of each class, at the resolution of the head",
    SCORES: "the head's scores of each class, before the softmax",
    LEVELS: 'the maps of backbone and neck (the heads of a detector make proposals, which are no fixed graph)'
}


class ExportedModel(nn.Module):
    """The part of a model that is one fixed graph: normalised images (B, 3, H, W) in, tensors out.

    Attributes:
        output: ``'logits'``: a segmentor's (B, classes, h, w), at the resolution of its head. ``'scores'``: a classifier's
            (B, classes), before the softmax. ``'level'``: the maps of backbone and neck, for detectors, whose proposals
            and suppression are no fixed graph, and for anything else.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        toolboxes = {cls.__module__.split('.')[0] for cls in type(model).__mro__}
        self.output = LOGITS if 'mmseg' in toolboxes and hasattr(model, 'decode_head') else SCORES \
            if 'mmpretrain' in toolboxes and getattr(model, 'with_head', False) else LEVELS
        self.model = model

    def forward(self, images: Tensor) -> Any:
        if self.output != LEVELS:
            return self.model(images, mode='tensor')
        return self.model.extract_feat(images) if hasattr(self.model, 'extract_feat') else self.model(images)


def export_onnx(model: nn.Module, out: str | Path, size: tuple[int, int], batch_size: int = 1, overwrite: bool = False,
                notes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write backbone and head of ``model`` to an ONNX file.

    The size of the batch and of the images is fixed: AdaRoute lays the batch of its per-sample convolutions into groups, and
    their number is a part of the graph.

    Args:
        model: a complete model, or a backbone; it is in evaluation mode afterwards.
        out: file to write; ends in ``.onnx``.
        size: height and width of the images, after the test pipeline and padding.
        batch_size: number of images.
        overwrite: replace an existing file.
        notes: further entries of the description, such as how the input is normalised.

    Returns:
        The description, which is in the file's metadata, too, as JSON under the key ``mmparax``: ``version``, ``kind`` (of
        the outputs, see :class:`ExportedModel`), ``input`` and ``outputs`` (names and shapes), ``adapters``, ``classes`` and
        the notes.

    Raises:
        InputError: for a wrong argument, or if onnx or onnxscript is missing.
        StorageError: if the file cannot be written.
    """
    check_output_file(out, ('.onnx', ), overwrite)
    batch_size = check_int('batch_size', batch_size)
    size = check_int('size', size[0]), check_int('size', size[1])
    check_packages()
    model = unwrap_model(model)
    exported = ExportedModel(model).eval()
    images = torch.zeros(batch_size, 3, *size).to(next(model.parameters()))
    with torch.no_grad():
        outputs = flatten_outputs(exported(images))
    names = [exported.output] if len(outputs) == 1 and exported.output != LEVELS else [
        f'{exported.output}{number}' for number in range(len(outputs))
    ]
    about = to_plain_json(
        dict(version=__version__, kind=exported.output, input=dict(name='images', shape=[batch_size, 3, *size]),
             outputs=[dict(name=name, shape=list(output.shape)) for name, output in zip(names, outputs)],
             adapters={name: backbone.method and backbone.method.config for name, backbone in find_adapted_backbones(model)},
             classes=(getattr(model, 'dataset_meta', None) or {}).get('classes'), **(notes or {})))
    with torch.no_grad():
        # onnxruntime simplifies the graph when it loads it; the exporter's own pass takes longer than all the rest.
        program = torch.onnx.export(exported, (images, ), dynamo=True, verbose=False, optimize=False, input_names=['images'],
                                    output_names=names)
    file = program.model_proto
    entry = file.metadata_props.add()
    entry.key, entry.value = 'mmparax', json.dumps(about)
    write(out, file.SerializeToString(), remedy='Make room, or choose another place.')
    return about


def check_packages() -> None:
    """Raise InputError if onnx or onnxscript is missing."""
    missing = [name for name in PACKAGES if not is_installed(name)]
    if missing:
        raise InputError(f'writing ONNX files needs {" and ".join(missing)}, not installed here: run `pip install '
                         f'{" ".join(PACKAGES)} {RUNTIME}`, or install mmparax[onnx].')


def flatten_outputs(outputs: Any) -> list[Tensor]:
    """List the tensors of a tensor or of a nested sequence, in order."""
    return [outputs] if isinstance(outputs, Tensor) else [tensor for output in outputs for tensor in flatten_outputs(output)]


@torch.no_grad()
def compare_onnx(model: nn.Module, path: str | Path, seed: int = 0) -> float:
    """Run an ONNX file in onnxruntime and return the largest difference to ``model``, relative to the largest output.

    Args:
        model: the exported model, in the precision of the file.
        path: the file.
        seed: of the random images.
    """
    import onnxruntime  # optional
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    source, = session.get_inputs()
    images = torch.randn(source.shape, generator=torch.Generator().manual_seed(seed)).to(next(model.parameters()))
    found = session.run(None, {source.name: images.cpu().numpy()})
    expected = flatten_outputs(ExportedModel(unwrap_model(model)).eval()(images))
    return max(float((torch.from_numpy(a) - b.cpu()).abs().max() / b.abs().max()) for a, b in zip(found, expected))
