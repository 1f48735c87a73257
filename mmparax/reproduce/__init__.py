"""The paper's tables: their entries with configs and published numbers, the runner, and the report of what was measured."""
