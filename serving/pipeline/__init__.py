"""What happens to a request between the transports and the graphs: align, encode, refine, edit, decode, render."""
