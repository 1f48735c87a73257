"""Where a checkpoint says of itself by which method and on which base it was trained."""

# Among the metadata that a state dict has of each module: what the checkpoint says of itself, or CHECKED once the model was
# compared with it. An object, because no file can hold it.
CLAIM, CHECKED = 'mmparax', object()
EMA, EMA_PREFIX = 'ema_state_dict', 'module.'  # mmengine's key in a checkpoint, and what is before the names below it
