"""Made-up problems for the head: scores that correlate, and labels that depend on the first few."""

import torch

CLASSES = 4


def problem(seed: int, *, count: int = 120, concepts: int = 8, skew: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores FP64 [N,M] that correlate, and labels INT64 [N] that depend on the first few; `skew` favours class 0."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.eye(concepts, dtype=torch.float64)
    mix += 0.4 * torch.randn(concepts, concepts, generator=generator, dtype=torch.float64)
    scores = torch.randn(count, concepts, generator=generator, dtype=torch.float64) @ mix
    scores = (scores - scores.mean(dim=0)) / scores.std(dim=0)
    truth = torch.randn(CLASSES, concepts, generator=generator, dtype=torch.float64)
    truth[:, 4:] = 0
    wanted = scores @ truth.T + torch.randn(count, CLASSES, generator=generator, dtype=torch.float64)
    wanted[:, 0] += skew
    labels = wanted.argmax(dim=1)
    labels[:CLASSES] = torch.arange(CLASSES)
    return scores, labels
