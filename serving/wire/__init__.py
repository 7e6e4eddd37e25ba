"""The only room where wire types (protobuf, JSON bodies) become jobs, and results become wire types.

Nothing is checked here but that bytes can be read as what they should be; what they mean is the pipeline's business.
"""
