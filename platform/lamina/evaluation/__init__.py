"""What a trial is judged by: the accuracy matrix and its summaries, and what it cost."""
