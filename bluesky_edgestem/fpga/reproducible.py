"""TensorFlow and QKeras, set up to give the same figures on any machine, which has to be before they are imported."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # its order of adding, and so its results, differ by machine

import qkeras
import tensorflow as tf
from tensorflow import keras

__all__ = ["keras", "qkeras", "tf"]
