"""What happens to the promises when the process, the disk, the clock or the clients misbehave. Each fault has a test, each test
a checker that counts (tally.py), and each checker a control that shows it can tell."""
