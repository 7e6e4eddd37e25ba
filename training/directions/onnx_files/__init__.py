"""Assessors in ONNX files."""
