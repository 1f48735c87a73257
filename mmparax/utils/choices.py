"""Names that scripts offer to choose from; imports nothing, so that ``--help`` does not wait for torch."""

PRECISIONS = ('fp16', 'bf16')  # of mixed precision
BACKENDS = ('auto', 'reference', 'fused', 'cpu', 'triton')  # of AdaRoute's operations (mmparax.ops.dispatch)
BACKEND_VARIABLE = 'MMPARAX_OPS'  # chooses one of them
TIMED_PRECISIONS = ('fp32', *PRECISIONS)  # of the benchmark
FILE_DTYPES = ('float32', 'float16', 'bfloat16')  # of an adapter file
POOLS = ('none', 'mean')  # of the features that CKA compares
MIN_SCENE_SIDE = 64  # of a synthetic scene, in pixels
MINI_BACKBONES = ('convnext_mini', 'swin_mini', 'vit_mini')
BENCHMARK_BACKBONES = ('swin-b', 'swin-l', 'convnext-b', 'convnext-l', 'vit-b16', 'swin-mini', 'convnext-mini', 'vit-mini')
SAMPLE = 200  # images of a data set that are read if nothing else is asked for
ALL = 'all'  # of them
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
