"""The parts of a training step: losses, chunked logits, optimisers, schedules, sharding, memory."""
