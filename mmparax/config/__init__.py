"""Reading and querying configs, ``mmparax::`` bases; builds nothing."""
