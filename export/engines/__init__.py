"""What runs the graphs of a bundle: Triton's configuration files, TensorRT engines and plans. Needs no PyTorch."""
