"""Cameras, rays, rotations and meshes: small pure functions, NumPy in NumPy out, JAX in JAX out."""
