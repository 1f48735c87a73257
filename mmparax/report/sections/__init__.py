"""The sections of the page: each function builds one from the runs and the results of their analyses."""
