"""What is generated into files: videos, stream states, a teacher's trajectories."""
