"""headjax: 3D heads, generated, reconstructed, animated and edited, in JAX."""

__version__ = "0.1.0"
