"""What `caad-ds serve` runs, of the packages of extra `serve`; without them its limits alone can be imported."""
