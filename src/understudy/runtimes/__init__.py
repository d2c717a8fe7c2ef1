"""Where models run: image names to environments, artifacts to directories, instances to processes."""
