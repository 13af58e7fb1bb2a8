"""Objectives on recorded sound."""
