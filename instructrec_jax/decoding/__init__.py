"""Search and scoring with a trained model; imports neither TensorFlow nor optax."""
