"""Pixels and latents in files: videos in and out, pictures, latents."""
