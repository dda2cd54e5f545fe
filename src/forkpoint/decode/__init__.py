"""The decoder: sampling answers, and recording what the policy knew as it wrote them."""
