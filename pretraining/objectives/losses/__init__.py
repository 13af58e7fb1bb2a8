"""Losses that objectives of several modalities share."""
