"""Labelled examples made ready for a backbone, one file per modality."""
