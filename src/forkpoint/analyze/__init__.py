"""Reading runs back: figures, token views, reports."""
