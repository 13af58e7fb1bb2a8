"""Recordings, and how a run reads them."""
