"""Train video LMMs on long and high-resolution video, composed on the fly from short captioned clips."""

__version__ = "0.1.0"
