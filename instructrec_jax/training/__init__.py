"""Loss, optimizer, sharding, train step, checkpoints and reporting."""
