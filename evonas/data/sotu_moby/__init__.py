"""Part of evonas."""
