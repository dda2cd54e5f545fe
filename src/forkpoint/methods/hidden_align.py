"""Hidden-Align."""

from __future__ import annotations

from forkpoint.credit import Chain, chain
from forkpoint.credit.alignment import hidden_alignment
from forkpoint.methods.dapo import dapo


def hidden_align(*, coefficient: float) -> Chain:
    """DAPO that pulls right answers to one problem into the same hidden state right before they state it.

        L = L_DAPO + coefficient mean_g (1 - mean_{i<j} cos(h_i, h_j))

    h is the state that predicts the first token of the final answer's marker, which `columns.anchor` finds.

    Reduces to: DAPO with `coefficient=0`.

    Confidence: inspired — abstract and digests agree on pairwise cosine; coefficient and variant are not known.

    Args:
        coefficient: >= 0.

    Source: arXiv 2606.03234.
    """
    return chain(dapo(), hidden_alignment(coefficient=coefficient))
