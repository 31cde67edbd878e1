"""What a run does when its machine or its numbers fail: signals, kills, full disks, steps that are not finite."""
