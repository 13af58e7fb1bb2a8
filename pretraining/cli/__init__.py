"""Command lines: from what was typed to a checked configuration, and to one process per rank."""
