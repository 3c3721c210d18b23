"""A trained model as a folder, with its model card."""

ORIGIN = "export.json"  # what a folder was exported from
README = "README.md"  # the card's file, as the Hugging Face hub wants it
