"""What is told of everything that happens: fields, event types, records. One declaration of each; no delivery."""
