"""A trained model as a folder, with its model card."""

ORIGIN = "export.json"  # the origin of an exported folder
README = "README.md"  # the card's file, as the Hugging Face hub wants it
