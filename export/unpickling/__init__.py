"""Reads checkpoint files of others as data: nothing that they hold is imported or executed."""
