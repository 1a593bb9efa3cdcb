"""Renderers: meshes and UV maps on the host, Gaussian fields and volumes in JAX."""
