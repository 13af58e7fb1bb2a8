"""What watches a run: evaluation, speed, hand-offs. Callbacks observe and never change what is learnt."""
