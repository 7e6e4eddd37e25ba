"""What NVIDIA Triton, TensorRT and OpenVINO are told of a bundle."""
