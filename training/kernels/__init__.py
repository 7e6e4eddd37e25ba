"""Operations of the networks that have a kernel of their own on GPUs."""
