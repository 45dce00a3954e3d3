"""What a run would need on a card, before it is started."""
