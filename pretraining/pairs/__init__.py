"""Pairs of examples that belong together, of any two wings: pictures and captions, sounds and captions."""
