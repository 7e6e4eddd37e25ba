"""Networks to ONNX graphs: folding, tracing, precision, parity checks."""
