"""What the analyses measure: tokens in, data and a drawing out."""
