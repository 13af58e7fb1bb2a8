"""The wing of recorded sound: speech above all."""
