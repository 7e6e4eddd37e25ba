"""Networks that know labels: what a conditional mapping takes beside z, and what reads labels off codes."""
