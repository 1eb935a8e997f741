"""The command line: one file per noun, loaded when the noun is named, so that `mq9 send` starts without the rest.

__main__.py   run a command and turn what it raises into an exit code
secrets.py    passwords given as flags leave the process list
root.py       the table of nouns
command.py    what every command that talks to a broker has in common: connection options, --json, errors
output.py     tables for people, JSON for programs
"""
