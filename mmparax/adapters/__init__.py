"""Adaptation methods, one a file."""
from mmparax.adapters.adaptformer import AdaptFormer
from mmparax.adapters.adaroute import AdaRoute
from mmparax.adapters.base import BlockInfo, Method, build_method
from mmparax.adapters.bitfit import BitFit
from mmparax.adapters.frozen import Frozen
from mmparax.adapters.lora import LoRA
from mmparax.adapters.lorand import LoRand
from mmparax.adapters.mona import Mona
from mmparax.adapters.norm_tuning import NormTuning
from mmparax.adapters.vpt import VPT

__all__ = [
    'AdaRoute', 'AdaptFormer', 'BitFit', 'BlockInfo', 'Frozen', 'LoRA', 'LoRand', 'Method', 'Mona', 'NormTuning', 'VPT',
    'build_method'
]
