"""What all tests have in common."""

import os

# Gateways do not try engines out at each start, but where that is tested.
os.environ.setdefault("INDOMAIN_ENGINE", "onnxruntime")
