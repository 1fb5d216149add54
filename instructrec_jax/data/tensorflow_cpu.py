"""TensorFlow for input pipelines: quiet, and without the accelerators, which belong to JAX."""

import os

# Read when TensorFlow loads: no log lines below fatal, and none about oneDNN.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
# Else TensorFlow loads Keras 3, and that Matplotlib: a second of every start, and nothing here is
# of Keras.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import tensorflow as tf

tf.config.set_visible_devices([], "GPU")
# Else TensorFlow Datasets' own calls are told to be outdated.
tf.get_logger().setLevel("ERROR")
