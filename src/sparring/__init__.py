"""An attacker and a defender train against each other, and the defender gets safer."""
