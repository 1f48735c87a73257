"""``mmparax::`` bases of configs."""
from pathlib import Path

import pytest
from mmengine.config import Config


def test_configs_are_bases_of_others_without_a_scope(tmp_path):
    name = 'semantic_segmentation/upernet_swin-b_adaroute_4xb4-160k_ade20k-512x512.py'
    path = tmp_path / 'mine.py'
    path.write_text(f"_base_ = 'mmparax::{name}'\nmodel = dict(decode_head=dict(num_classes=7))\n")
    cfg = Config.fromfile(path)
    assert cfg.model.decode_head.num_classes == 7 and cfg.model.backbone.type == 'mmparax.AdaptedSwin'
    assert '_scope_' not in cfg.pretty_text  # with one, mmengine would look for EncoderDecoder in mmparax
    assert Path(cfg._get_cfg_path(f'mmparax::{name}', '')[0]).resolve().is_file()
    path.write_text("_base_ = 'mmparax::semantic_segmentation/absent.py'\n")
    with pytest.raises(FileNotFoundError, match='absent.py'):
        Config.fromfile(path)


def test_bases_of_other_packages_keep_their_scope(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text("_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'\n")
    assert Config.fromfile(path).model._scope_ == 'mmdet'
