"""What adversarial training of image generators needs: losses, regularisers, schedules,
conditioning, augmentation. Pure functions; no system, network or config is known here."""
