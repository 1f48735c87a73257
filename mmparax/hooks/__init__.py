"""Hooks of mmengine's runner."""
from mmparax.hooks.checkpoint_hook import CheckpointHook
from mmparax.hooks.ema_hook import EMAHook
from mmparax.hooks.peft_hook import PEFTHook
from mmparax.hooks.routing_hook import RoutingHook

__all__ = ['CheckpointHook', 'EMAHook', 'PEFTHook', 'RoutingHook']
