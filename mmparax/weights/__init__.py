"""Files of weights: the safe reader, sources, key layouts, the adapter file format; knows no model."""
