"""Files: images, video, meshes, each written whole or not at all and read with suspicion."""
