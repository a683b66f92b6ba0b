"""Model families. Importing this package makes transformers' Auto classes know the models that are our own."""

from vista_train.models import tiny
from vista_train.models.base import Codec, Compute, Family, family, load_family

__all__ = ["Codec", "Compute", "Family", "family", "load_family", "tiny"]
