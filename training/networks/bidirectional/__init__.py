"""Networks that join both ways between latents and pictures: an invertible mapping, a discriminator of pairs."""
