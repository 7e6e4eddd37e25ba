"""Losses: adversarial ones with the interface of discriminators, and perceptual distances."""
