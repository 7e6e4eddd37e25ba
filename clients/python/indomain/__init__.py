"""Client of the Indomain image-editing gateway."""
