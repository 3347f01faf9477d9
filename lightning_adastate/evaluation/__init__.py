"""Scores beside each other: arms of a comparison, groups of videos, intervals, tables, pictures."""
