"""The paper's tables: every cell with its config and its published numbers, running them, and comparing what was measured."""
