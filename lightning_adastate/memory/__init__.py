"""What a recipe will take of memory, before anything is loaded."""
