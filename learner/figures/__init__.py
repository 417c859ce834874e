"""What numbers mean and how people read them: statistics over attempts, what takes how much memory, and texts made
safe to show.

Pure functions, which run, evaluation and reporting share.
"""
