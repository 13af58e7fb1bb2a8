"""From a study's description to its finished runs."""
