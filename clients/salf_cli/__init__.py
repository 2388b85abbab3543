"""The `salf` command. Each command loads its room when it runs, so that `salf --help` is quick and needs no extra."""
