"""Networks to ONNX graphs: folding, tracing with gradients, 16 bits, compact storage."""
