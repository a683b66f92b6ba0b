"""Model families. Importing this package makes transformers' Auto classes know the model that is our own."""

from vista_train.models import pooled_llava
from vista_train.models.base import Codec, Compute, Family, family, load_family

__all__ = ["Codec", "Compute", "Family", "family", "load_family", "pooled_llava"]
