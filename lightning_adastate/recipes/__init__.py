"""Configurations: their names, how they are parsed, and the objects they stand for."""
