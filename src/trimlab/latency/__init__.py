"""How long a pruned model takes on this machine: predicted from measured layers, and measured as a file."""
