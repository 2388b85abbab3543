"""How good is a checkpoint: accuracy, places, faithfulness; one report for people and one for programs.

Nothing is imported here: reading masked pictures needs less than evaluating (captum, of the `evaluate` extra).
"""
