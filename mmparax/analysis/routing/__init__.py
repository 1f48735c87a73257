"""The gates of AdaRoute's routers over a data set: measuring them, their numbers, and pictures."""
