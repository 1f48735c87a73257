"""Hooks of mmengine's runner."""
from mmparax.hooks.peft_hook import PEFTHook

__all__ = ['PEFTHook']
