"""Measures of pictures and of sets of heads."""
