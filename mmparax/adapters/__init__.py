"""Adaptation methods, one a file."""
from mmparax.adapters.adaroute import AdaRoute
from mmparax.adapters.base import BlockInfo, Method, build_method
from mmparax.adapters.frozen import Frozen

__all__ = ['AdaRoute', 'BlockInfo', 'Frozen', 'Method', 'build_method']
