"""What is true: names, lifecycles and decisions.  Standard library only; no clock, dice, disk or network."""
