"""What a job left behind, for people: tables for terminals and papers, and one page."""
