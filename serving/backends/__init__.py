"""What runs the graphs: a protocol, batching in this process or Triton servers, and checks of what was loaded."""
