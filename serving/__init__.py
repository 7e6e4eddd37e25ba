"""The gateway: one transport-free pipeline (align, encode, refine, edit, decode) behind gRPC and HTTP.

Start reading at `pipeline/pipeline.py`; `gateway.py` puts the parts together. Nothing here may import torch.
"""

__version__ = "0.1.0"
