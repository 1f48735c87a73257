"""``_base_ = 'mmparax::FOLDER/NAME.py'``: the configs of this package as bases of any config."""
import functools

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE


def install() -> None:
    """Make mmengine resolve ``mmparax::``, once."""
    if 'mmparax' in MODULE2PACKAGE:
        return
    MODULE2PACKAGE['mmparax'] = 'mmparax'
    original = Config._get_cfg_path

    @functools.wraps(original)
    def get_cfg_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        path, scope = original(cfg_path, filename)
        # With a scope, mmengine looks for all that a base names among the parts of that package. A config of mmparax has
        # parts of several toolboxes and names its own in full: like one beside the user's file, it needs none.
        return path, None if scope == 'mmparax' else scope

    Config._get_cfg_path = staticmethod(get_cfg_path)
