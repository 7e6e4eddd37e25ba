"""What calls answer: plain Python values, how they are read from the gateway's messages, and how they are saved."""
