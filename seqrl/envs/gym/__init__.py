"""Gymnasium's and EnvPool's environments, played as one batched environment."""
