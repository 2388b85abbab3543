"""Training room: data, encoders, backbones, similarity, bottleneck, head; writes checkpoints."""
