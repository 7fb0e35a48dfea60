"""Programs that run in a Windows guest, by its own PowerShell and nothing else. No PowerShell has run them here."""
