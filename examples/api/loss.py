"""The loss of random hidden states and its gradient: python -m examples.api.loss."""

import torch

import caad_ds


def main() -> torch.Tensor:
    """Distil a teacher of width 64 into a student of width 32, over 10 answer tokens and a vocabulary of 100."""
    torch.manual_seed(0)
    student = torch.randn(10, 32, requires_grad=True)
    with_audio, without_audio = torch.randn(2, 10, 64)
    student_head, teacher_head = caad_ds.LMHead(torch.randn(100, 32) / 6), caad_ds.LMHead(torch.randn(100, 64) / 8)
    out = caad_ds.contrastive_distillation_loss(
        student, student_head, with_audio, without_audio, teacher_head, torch.randint(100, (10,)),
        alpha=1.0, temperature=2.0, kd_weight=0.7,
    )  # fmt: skip
    out.loss.backward()
    print(f"loss {out.loss.item():.3f}, kd {out.kd.item():.3f}, ce {out.ce.item():.3f}")
    print(f"gradient {tuple(student.grad.shape)}, norm {student.grad.norm().item():.3f}")
    return student.grad


if __name__ == "__main__":
    from examples.api.script import run

    run(main)
