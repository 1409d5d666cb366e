"""What a training step is made of: losses, chunked logits, optimisers, schedules, sharding, memory."""
