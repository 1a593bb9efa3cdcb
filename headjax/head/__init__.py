"""The parametric head: model and skinning, readers of foreign models, the procedural head."""
