"""Files and models together: what a checkpoint keeps, whether it fits, adapter files in and out, mmengine's loading."""
