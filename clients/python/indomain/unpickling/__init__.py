"""Reads files of others that hold tensors as data: nothing that they hold is imported or executed."""
