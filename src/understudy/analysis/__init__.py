"""Judging what was measured and captured: pure arithmetic, no input or output."""
