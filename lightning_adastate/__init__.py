"""Streaming autoregressive video diffusion with pluggable anchors."""
