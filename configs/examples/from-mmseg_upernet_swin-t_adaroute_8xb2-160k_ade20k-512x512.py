# tools/dist_train.sh configs/examples/from-mmseg_upernet_swin-t_adaroute_8xb2-160k_ade20k-512x512.py 8
# mmsegmentation's own config, turned into AdaRoute: another backbone with outputs of the same widths, and the hooks that check
# and save the run.
_base_ = 'mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py'
model = dict(backbone=dict(
    _delete_=True, type='mmparax.AdaptedSwin', arch='tiny', out_indices=(0, 1, 2, 3), drop_path_rate=0.3,
    base_checkpoint='https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_tiny_patch4_window7_224.pth',
    adapter=dict(type='mmparax.AdaRoute')))
optim_wrapper = dict(constructor='mmparax.OptimWrapperConstructor')
default_hooks = dict(checkpoint=dict(type='mmparax.CheckpointHook'))
custom_hooks = [dict(type='mmparax.PEFTHook')]
