"""Who gets a published message: subscribers, queue groups, the table of commands, pushed mailboxes."""
