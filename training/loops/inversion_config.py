"""Settings of the encoder's training."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from training.networks.latent_discriminator import LatentDiscriminatorView
from training.optimisation.step import Compute


@dataclass
class InversionConfig:
    """Train an encoder for a generator, by force-in-domain inversion."""

    gan: Path
    """Run folder of the generator and image discriminator: a GAN's, or an encoder's, which holds them too."""
    data: Path | None = None
    """Folder or zip of pictures; without them the encoder learns from the generator's own samples."""
    validation: Path | None = None
    """Folder or zip of other pictures: their error is logged and their reconstructions drawn."""
    runs: Path = Path("runs")
    """Parent of the run folders."""
    resume: Path | None = None
    """Run folder to go on from, with its optimiser state, or a compact checkpoint, without."""
    fresh: bool = False
    """Start from random weights, even where the run folder holds an encoder that could be gone on with."""
    channels: tuple[int, ...] = ()
    """Encoder's feature maps at full, half, ... 4 pixels; left out, 32 64 128 192 256 256 ... as far as pictures go."""
    bottleneck: int = 64
    """Encoder's feature maps at 4 pixels before the fully connected layer, whose size they bound."""
    activation: bool = True
    """End the encoder in the mapping's own activation, so that native codes are within its reach."""
    bounded: bool = True
    """Keep codes softly within what native codes reach, by construction, so that no picture explodes."""
    images: int = 100_000
    """Pictures to show the encoder in all."""
    seconds: float | None = None
    """End in this time, counted from the start of the command, with all written; --resume goes on later."""
    finish: bool = False
    """With --seconds: this is the run's last part. Rates fall until the time is up or --images are shown, whichever
    comes first."""
    compact: bool = False
    """Write a compact checkpoint beside each checkpoint: one file of float16 weights without optimiser state."""
    warm_up_images: int = 2_000
    """Pictures within which the rates rise where the optimisers start without moments in mid-run."""
    batch: int = 16
    """Pictures a step and process."""
    rate: float = 5e-4
    """Adam's rate for the encoder, falling to 2 % of it along a cosine."""
    pixel_weight: float = 1.0
    """Weight of the mean squared error on [-1, 1]."""
    perceptual_weight: float = 0.5
    """Weight of LPIPS-sq (or of VGG16's term, which has its factor 5e-5 built in)."""
    vgg: Path | None = None
    """Weights of VGG16 (safetensors or .pth), to use the in-domain paper's perceptual term instead of LPIPS-sq."""
    identity_weight: float = 0.0
    """Weight of the squared distance between MobileFace's descriptors of the faces on x and G(E(x)) (Richardson et al.,
    CVPR 2021). For pictures of faces only."""
    image_weight: float = 0.05
    """Weight of the image discriminator's judgement of G(E(x))."""
    image_discriminator_rate: float = 1e-4
    """Adam's rate for the image discriminator."""
    code_weight: float = 0.1
    """Weight of the latent discriminator's judgement of E(x); 0 is the in-domain baseline."""
    latent_discriminator_rate: float = 2e-3
    """Adam's rate for the latent discriminator, whose weights are equalised; at 2e-4 it learns too slowly to
    force anything."""
    latent_discriminator_view: LatentDiscriminatorView | None = None
    """Judge all layers' vectors at once, one at a time, or through the inverse of the mapping's last layer. By default
    the last, and one at a time for generators that repeat one w, whose codes W+ would otherwise be pressed into W."""
    joint_weight: float = 0.0
    """Weight of the joint discriminator's judgement of (x, E(x)), which it tells from (G(w), w) (BiGAN, ALI); 0 trains
    none."""
    joint_discriminator_rate: float = 2e-3
    """Adam's rate for the joint discriminator, whose weights are equalised."""
    prior_weight: float = 0.0
    """Weight of the prior discriminator's judgement of E(x) as an input of the mapping's last layer, which it tells
    from those of sampled codes (adversarial autoencoder); 0 trains none."""
    prior_discriminator_rate: float = 2e-3
    """Adam's rate for the prior discriminator, whose weights are equalised."""
    residual_weight: float = 0.0
    """Weight of the mean square of what E(x) has beyond the nearest native code, in standard deviations of native
    ones."""
    residual_images: int = 0
    """Pictures within which that residual is faded in (as e4e's offsets are): at first codes are native."""
    code_cycle_weight: float = 0.5
    """Weight of the mean squared error of E(G(w)) against sampled w, standardised: the cycle's other half."""
    code_cycle_interval: int = 1
    """Steps from one with that term to the next; the others are cheaper. Its weight stays the same."""
    r1_gamma: float = 10.0
    """Weight of R1 on the discriminators (on the image discriminator only if it is StyleGAN2's)."""
    r1_interval: int = 16
    """Steps between R1 penalties."""
    code_pool: int = 50
    """Codes of earlier steps that the latent discriminator is also shown (replay pool, as in e4e); 0 for none."""
    mirror: bool = True
    """Show mirrored pictures too."""
    snapshot_steps: int = 500
    """Steps between checkpoints and sample grids."""
    compute: Compute = field(default_factory=Compute)

    @property
    def weights(self) -> dict[str, float]:
        """The weights above 0 of the loss's terms, by their names in figures."""
        terms = {
            "mse": self.pixel_weight,
            "perceptual": self.perceptual_weight,
            "identity": self.identity_weight,
            "image": self.image_weight,
            "code": self.code_weight,
            "joint": self.joint_weight,
            "prior": self.prior_weight,
            "residual": self.residual_weight,
            "code_cycle": self.code_cycle_weight,
        }
        return {name: weight for name, weight in terms.items() if weight > 0}
