"""The tests. `support` holds what they share; every other folder tests one room of the house."""
