"""How a checkpoint becomes something a cluster mounts: tar layers, images, ModelPack manifests, base images."""
