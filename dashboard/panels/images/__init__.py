"""The images of a run: one row for each image and condition, filtered, sorted and saved whole."""
