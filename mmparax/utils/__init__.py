"""What every room may use: signatures, storage, locks, launching, tables, meta-device building."""
