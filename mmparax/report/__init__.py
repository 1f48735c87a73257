"""One HTML page about one or several runs: methods, results, curves, predictions and analyses."""
