"""What is trained on: data sets of pictures, a generator's own samples, and augmentation."""
