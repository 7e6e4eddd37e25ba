"""What codes hold beside the layers' vectors: groups of rows, and what each adds to the synthesis network."""
