"""Counts parameters by what they are: frozen trunk, adapters, centers, output norms, head."""
import io
from dataclasses import dataclass, fields
from typing import Any, Dict, List, Tuple

from rich.console import Console
from rich.table import Table
from torch import nn

from mmparax.backbones.adapted import ADAPTER, BASE, CENTER, OUTPUT_NORM, TUNED, adapted_backbones
from mmparax.errors import ParameterError


@dataclass
class Group:
    """Number of tensors and of scalars in them."""
    tensors: int = 0
    parameters: int = 0

    def add(self, parameter: nn.Parameter) -> None:
        self.tensors += 1
        self.parameters += parameter.numel()


@dataclass
class ParameterCount:
    """Parameters of a model, each in exactly one group.

    Attributes:
        backbone_frozen: trunk weights that do not train.
        backbone_trained: trunk weights that train (full fine-tuning, BitFit, NormTuning).
        adapters: all that a method put at a site.
        centers: what the blocks of a stage share.
        output_norms: norms on the backbone's outputs; they train with every method.
        head: everything outside the backbone that trains.
        head_frozen: everything outside the backbone that does not.
    """
    backbone_frozen: Group
    backbone_trained: Group
    adapters: Group
    centers: Group
    output_norms: Group
    head: Group
    head_frozen: Group

    @property
    def trained_in_backbone(self) -> int:
        """What the paper's tables call "# P"."""
        return sum(group.parameters for group in
                   (self.backbone_trained, self.adapters, self.centers, self.output_norms))

    @property
    def backbone(self) -> int:
        return self.backbone_frozen.parameters + self.trained_in_backbone

    @property
    def trained(self) -> int:
        return self.trained_in_backbone + self.head.parameters

    @property
    def total(self) -> int:
        return self.backbone + self.head.parameters + self.head_frozen.parameters

    def as_dict(self) -> Dict[str, Any]:
        """Plain numbers, for JSON."""
        groups = {field.name: vars(getattr(self, field.name)).copy() for field in fields(self)}
        return dict(groups, trained_in_backbone=self.trained_in_backbone, backbone=self.backbone, trained=self.trained,
                    total=self.total)

    def rows(self) -> List[Tuple[str, int, int, bool]]:
        """(label, tensors, parameters, in the backbone) of each group that is not empty, then the trained sums."""
        labels = dict(backbone_frozen='backbone, frozen', backbone_trained='backbone, trained', adapters='adapters',
                      centers='expert centers', output_norms='output norms', head='head', head_frozen='head, frozen')
        return [(label, getattr(self, name).tensors, getattr(self, name).parameters, not name.startswith('head'))
                for name, label in labels.items() if getattr(self, name).tensors]

    def table(self) -> str:
        """A text table of the groups with their shares of the backbone and of the whole model."""
        table = Table(title='Parameters')
        for column in ('part', 'tensors', 'parameters', 'of backbone', 'of model'):
            table.add_column(column, justify='left' if column == 'part' else 'right')
        sums = [('trained in backbone', None, self.trained_in_backbone, True), ('trained', None, self.trained, False)]
        for rows in (self.rows(), sums):
            for label, tensors, parameters, in_backbone in rows:
                table.add_row(label, '' if tensors is None else f'{tensors:,}', f'{parameters:,}',
                              f'{parameters / max(self.backbone, 1):.2%}' if in_backbone else '',
                              f'{parameters / max(self.total, 1):.2%}')
            table.add_section()
        buffer = io.StringIO()
        Console(file=buffer, width=88, color_system=None).print(table)
        return buffer.getvalue().rstrip()


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count the parameters of ``model``, a backbone of mmparax or anything that holds one.

    Raises:
        ParameterError: if there is none in it.
    """
    backbones = adapted_backbones(model)
    if not backbones:
        raise ParameterError(f'{type(model).__name__} holds no backbone of mmparax, so there is nothing to tell apart. Use '
                             "type='mmparax.AdaptedSwin' or another of its backbones.")
    count = ParameterCount(*(Group() for _ in fields(ParameterCount)))
    roles = {f'{prefix}.{name}' if prefix else name: role
             for prefix, backbone in backbones for name, role in backbone.parameter_roles().items()}
    groups = {ADAPTER: count.adapters, CENTER: count.centers, OUTPUT_NORM: count.output_norms, TUNED: count.backbone_trained}
    for name, parameter in model.named_parameters():
        role, trains = roles.get(name), parameter.requires_grad
        if role is None:
            group = count.head if trains else count.head_frozen
        elif role == BASE:
            group = count.backbone_trained if trains else count.backbone_frozen
        else:
            group = groups[role]
        group.add(parameter)
    return count
