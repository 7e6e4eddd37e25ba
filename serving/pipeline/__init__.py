"""What is done for a request: align, encode, refine, edit, decode. Free of any transport."""
