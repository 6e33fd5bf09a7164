"""What FedAdam and FedYogi ask of their settings."""

from lamina.registry import InputError


def check_adaptive(beta_1: float, beta_2: float, tau: float) -> None:
    """Raise InputError for settings that cannot be."""
    for name, value in (("beta_1", beta_1), ("beta_2", beta_2)):
        if not 0 <= value < 1:
            raise InputError(f"server_optimiser.{name}: {value} is not in [0, 1)")
    if tau <= 0:
        raise InputError(f"server_optimiser.tau: {tau} is not positive")
