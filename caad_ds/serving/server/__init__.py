"""What `caad-ds serve` runs, of the packages of extra `serve`; nothing else imports it."""
