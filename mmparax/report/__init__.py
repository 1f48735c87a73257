"""One HTML file about one or several runs: what was trained, how, with what result, and what the analyses say."""
