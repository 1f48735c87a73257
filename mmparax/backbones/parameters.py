"""Counts parameters by their roles: frozen base, adapters, expert centers, output norms, head."""
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from rich.table import Table
from torch import nn

from mmparax.backbones.adapted import AdaptedBackbone, find_adapted_backbones
from mmparax.backbones.roles import Role
from mmparax.errors import InputError
from mmparax.utils.names import add_prefix, make_prefix
from mmparax.utils.tables import render_table

LABELS = dict(backbone_frozen='backbone, frozen', backbone_trainable='backbone, trainable', adapters='adapters',
              centers='expert centers', output_norms='output norms', head='head', head_frozen='head, frozen')
OUTSIDE = 'outside the blocks'


@dataclass
class ParameterGroup:
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
        backbone_frozen: frozen base weights.
        backbone_trainable: trainable base weights (full fine-tuning, BitFit, NormTuning).
        adapters: the modules that a method put at sites.
        centers: the expert centers that the blocks of a stage share.
        output_norms: norms on the backbone's outputs, trainable with every method.
        head: trainable parameters outside the backbone.
        head_frozen: frozen parameters outside the backbone.
    """
    backbone_frozen: ParameterGroup
    backbone_trainable: ParameterGroup
    adapters: ParameterGroup
    centers: ParameterGroup
    output_norms: ParameterGroup
    head: ParameterGroup
    head_frozen: ParameterGroup

    @property
    def trainable_in_backbone(self) -> int:
        """Number of trainable parameters in the backbone, "# P" in the paper's tables."""
        return sum(group.parameters for group in (self.backbone_trainable, self.adapters, self.centers, self.output_norms))

    @property
    def backbone(self) -> int:
        return self.backbone_frozen.parameters + self.trainable_in_backbone

    @property
    def trainable(self) -> int:
        return self.trainable_in_backbone + self.head.parameters

    @property
    def total(self) -> int:
        return self.backbone + self.head.parameters + self.head_frozen.parameters

    @property
    def share_of_backbone(self) -> float:
        """Trainable share of the backbone, with all that was added to it."""
        return self.trainable_in_backbone / max(self.backbone, 1)

    @property
    def share_of_model(self) -> float:
        """Trainable share of the whole model, head included."""
        return self.trainable / max(self.total, 1)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        groups = {field.name: vars(getattr(self, field.name)).copy() for field in fields(self)}
        return dict(groups, trainable_in_backbone=self.trainable_in_backbone, backbone=self.backbone, trainable=self.trainable,
                    total=self.total, share_of_backbone=self.share_of_backbone, share_of_model=self.share_of_model)

    def rows(self) -> list[tuple[str, int, int, bool]]:
        """(label, tensors, parameters, in the backbone) of each group that is not empty."""
        return [(label, getattr(self, name).tensors, getattr(self, name).parameters, not name.startswith('head'))
                for name, label in LABELS.items() if getattr(self, name).tensors]

    def table(self) -> str:
        """A text table of the groups with their shares of the backbone and of the whole model."""
        table = Table(title='Parameters')
        for column in ('part', 'tensors', 'parameters', 'of backbone', 'of model'):
            table.add_column(column, justify='left' if column == 'part' else 'right')
        sums = [('trainable in backbone', None, self.trainable_in_backbone, True), ('trainable', None, self.trainable, False)]
        for rows in (self.rows(), sums):
            for label, tensors, parameters, in_backbone in rows:
                table.add_row(label, '' if tensors is None else f'{tensors:,}', f'{parameters:,}',
                              f'{parameters / max(self.backbone, 1):.2%}' if in_backbone else '',
                              f'{parameters / max(self.total, 1):.2%}')
            table.add_section()
        return render_table(table, 88)


def format_side_by_side(title: str, counts: Mapping[str, ParameterCount], sums: Mapping[str, Callable[[ParameterCount], str]],
                        width: int = 180) -> str:
    """Return a text table with one row for each count: the groups that any of them has, and ``sums``.

    Args:
        title: above the table.
        counts: name of the row -> its count.
        sums: name of a further column -> what it shows of a count, such as ``MODEL_SUMS`` or ``STAGE_SUMS``.
        width: of the table, in characters.
    """
    groups = [name for name in LABELS if any(getattr(count, name).tensors for count in counts.values())]
    table = Table(title=title)
    table.add_column('', no_wrap=True)
    for name in [LABELS[name] for name in groups] + list(sums):
        table.add_column(name, justify='right')
    for label, count in counts.items():
        table.add_row(label, *(f'{getattr(count, name).parameters:,}' for name in groups),
                      *(show(count) for show in sums.values()))
    return render_table(table, width)


MODEL_SUMS = {
    'trainable in backbone': lambda count: f'{count.trainable_in_backbone:,}',
    'of backbone': lambda count: f'{count.share_of_backbone:.2%}',
    'trainable, of model': lambda count: f'{count.share_of_model:.2%}',
}
STAGE_SUMS = {
    'trainable': lambda count: f'{count.trainable_in_backbone:,}',
    'of stage': lambda count: f'{count.share_of_backbone:.2%}',
}


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count the parameters of ``model``, a backbone of mmparax or anything that holds one.

    Raises:
        InputError: if there is none in it.
    """
    return _count(model.named_parameters(), _find_roles(_find_backbones(model)))


def _find_backbones(model: nn.Module) -> list[tuple[str, AdaptedBackbone]]:
    backbones = find_adapted_backbones(model)
    if not backbones:
        raise InputError(f'{type(model).__name__} holds no backbone of mmparax, so there is nothing to tell apart. Use '
                         "type='mmparax.AdaptedSwin' or another of its backbones.")
    return backbones


def count_by_stage(model: nn.Module) -> dict[str, ParameterCount]:
    """Count the parameters of the backbone by its stages.

    Returns:
        For each stage what is in its blocks and what they share; then what no block holds: stem, downsampling, norms.

    Raises:
        InputError: if ``model`` holds no backbone of mmparax.
    """
    backbones = _find_backbones(model)
    parts: dict[str, list[tuple[str, nn.Parameter]]] = {}
    for backbone_name, backbone in backbones:
        front = f'{backbone_name}: ' if len(backbones) > 1 else ''
        stage_of = {}
        for index, blocks in enumerate(backbone.stage_blocks()):
            label = f'{front}stage {index + 1} ({len(blocks)} block{"s" * (len(blocks) != 1)})'
            parts[label] = []
            for module in (*blocks, *backbone.expert_centers[index:index + 1]):
                stage_of.update({id(parameter): label for parameter in module.parameters()})
        parts[front + OUTSIDE] = []
        for name, parameter in backbone.named_parameters(backbone_name):
            parts[stage_of.get(id(parameter), front + OUTSIDE)].append((name, parameter))
    roles = _find_roles(backbones)
    return {label: _count(parameters, roles) for label, parameters in parts.items()}


def _find_roles(backbones: list[tuple[str, AdaptedBackbone]]) -> dict[str, Role]:
    roles: dict[str, Role] = {}
    for name, backbone in backbones:
        roles.update(add_prefix(backbone.parameter_roles(), make_prefix(name)))
    return roles


def _count(named_parameters: Iterable[tuple[str, nn.Parameter]], roles: Mapping[str, Role]) -> ParameterCount:
    count = ParameterCount(*(ParameterGroup() for _ in fields(ParameterCount)))
    groups = {
        Role.ADAPTER: count.adapters, Role.EXPERT_CENTER: count.centers, Role.OUTPUT_NORM: count.output_norms,
        Role.TUNED: count.backbone_trainable
    }
    for name, parameter in named_parameters:
        role, trainable = roles.get(name), parameter.requires_grad
        if role is None:
            group = count.head if trainable else count.head_frozen
        elif role is Role.BASE:
            group = count.backbone_trainable if trainable else count.backbone_frozen
        else:
            group = groups[role]
        group.add(parameter)
    return count
