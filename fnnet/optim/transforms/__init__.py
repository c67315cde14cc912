"""Parts of an optimizer: transformations of gradients, updates and params."""
