"""Rewards that may fail, and what they are worth: guards, what a failure does to learning, reward hacking."""
