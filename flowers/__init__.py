"""What the flower scripts are made of: folders, photos, the data file, bottlenecks, evaluation."""
