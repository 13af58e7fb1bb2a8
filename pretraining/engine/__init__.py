"""The optimizer step and everything around it. Knows no modality, no data and no command line."""
