"""Settings of the augmentation inside compiled functions."""

from headjax.train.gan.augment_settings import Augmentation


def settings_of(**probabilities):
    """Settings with traced probabilities, so that tests compile one program for all of them."""
    settings = Augmentation()
    for name, value in probabilities.items():
        object.__setattr__(settings, name, value)
    return settings
