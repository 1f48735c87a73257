"""How much of the data is looked at; imports nothing, as parsers of arguments need it."""
SAMPLE = 200  # images of a data set that are read if nothing else is asked for
ALL = 'all'
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
