"""Loss functions that add to or replace the task's own."""
